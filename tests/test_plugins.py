"""Plugins are found through real installed distributions, and a broken one does not affect others."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gpt2spec.errors import BackendError, PluginError
from gpt2spec.plugins import BackendListing, PluginRegistry

Install = Callable[..., None]

CARD = """
    from gpt2spec.backend import BackendInfo
    from gpt2spec.hookspecs import hookimpl

    @hookimpl
    def gpt2spec_backend():
        return {returned}
"""


def card(name: str, **fields: object) -> str:
    """The source of a plugin whose backend has this description."""
    fields = {"summary": "a test", "factory": "gpt2spec_numpy.create:create", "api_version": 2, **fields}
    arguments = "".join(f", {key}={value!r}" for key, value in fields.items())
    return CARD.format(returned=f"BackendInfo(name={name!r}{arguments})")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution with one plugin module and its entry point, as pip lays it out."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    modules = set(sys.modules)

    def install(distribution: str, source: str, entry_point: str | None = None, version: str = "1.0") -> None:
        module = f"{distribution}_plugin"
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        info = site / f"{distribution}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[gpt2spec]\n{entry_point or distribution} = {module}\n")

    yield install
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(site)):
            del sys.modules[name]


def listing(name: str) -> BackendListing:
    (found,) = [listing for listing in PluginRegistry().backends if listing.name == name]
    return found


def fault(name: str) -> str:
    """The one-line fault of a broken backend; everything else must still work beside it."""
    registry = PluginRegistry()
    assert registry.load("numpy").name == "numpy", "a broken plugin must not harm another"
    found = [listing for listing in registry.backends if listing.name == name]
    assert [listing.status for listing in found] == [f"broken: {found[0].plugin.fault}"]
    assert "\n" not in found[0].plugin.fault
    with pytest.raises(PluginError) as raised:
        registry.load(name)
    assert found[0].plugin.fault in str(raised.value)
    assert str(found[0].plugin) in str(raised.value), "the error names the distribution"
    return found[0].plugin.fault


def test_own_numpy_backend_is_listed_as_ready() -> None:
    numpy = listing("numpy")
    assert (numpy.plugin.distribution, numpy.status, numpy.missing) == ("gpt2spec", "ready", ())
    assert numpy.plugin.version


def test_installed_plugin_is_found_and_loaded(install: Install) -> None:
    install("acme", card("acme-chip"), version="2.5")
    found = listing("acme-chip")
    assert (found.plugin.distribution, found.plugin.version, found.status) == ("acme", "2.5", "ready")
    backend = PluginRegistry().load("acme-chip", dtype="float64", mode="reference")
    assert (backend.dtype, backend.device) == ("float64", "cpu")


def test_listing_calls_no_factory_and_imports_no_framework(install: Install, tmp_path: Path) -> None:
    (tmp_path / "site" / "fakeframework").mkdir()
    (tmp_path / "site" / "fakeframework" / "__init__.py").write_text("raise SystemExit('imported')")
    install("acme", card("acme", factory="fakeframework:create", requires=("fakeframework", "fakeframework.part")))
    assert listing("acme").status == "ready"
    assert "fakeframework" not in sys.modules


def test_injected_entry_points_replace_the_installed_ones() -> None:
    registry = PluginRegistry([])
    assert registry.backends == ()
    with pytest.raises(BackendError, match="there is no backend 'numpy'; installed: none"):
        registry.load("numpy")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("this is no Python", "SyntaxError"),
        ("import sys; sys.exit('enough')", "SystemExit: enough"),
        ("def gpt2spec_backend(): return None", "hookimpl missing"),
        (CARD.replace("_backend()", "_backend(device)").format(returned=None), "'device'"),
        (CARD.replace("gpt2spec_backend", "gpt2spec_bakend").format(returned=None), "unknown hook 'gpt2spec_bakend'"),
        (CARD.format(returned="1 / 0"), "ZeroDivisionError"),
        (CARD.format(returned="{'name': 'acme'}"), "returned {'name': 'acme'}, not a gpt2spec.backend.BackendInfo"),
        (CARD.format(returned="None"), "returned None, not a gpt2spec.backend.BackendInfo"),
        (card("acme", api_version=3), "version 3 of the backend contract"),
        (card("acme", api_version=3), "this gpt2spec has version 2: upgrade the older of the two"),
        (
            card("acme", api_version=1),
            "or change it as 'From version 1 to 2' in docs/write-a-backend.md says",
        ),
        (
            CARD.format(returned="BackendInfo('acme', 'silent', 'gpt2spec_numpy.create:create')"),
            "version 1 of the backend contract",
        ),
        (card(""), "a backend's name is a text, not ''"),
        (card("acme", factory="gpt2spec_numpy.create"), "factory is 'package.module:callable'"),
        (card("acme", factory="not a module:create"), "factory is 'package.module:callable'"),
        (card("acme", open_sharded="not a module:open"), "open_sharded is 'package.module:callable'"),
        (card("acme", requires="jax"), "requires is a tuple of module names, not 'jax'"),
    ],
)
def test_broken_plugin_is_recorded_and_skipped(install: Install, source: str, expected: str) -> None:
    install("acme", source)
    assert expected in fault("acme")
    assert "Traceback" in listing("acme").plugin.traceback


def test_distribution_without_metadata_is_listed_all_the_same(install: Install, tmp_path: Path) -> None:
    install("acme", card("acme"))
    (tmp_path / "site" / "acme-1.0.dist-info" / "METADATA").unlink()
    found = listing("acme")
    assert (found.plugin.distribution, found.plugin.version, found.status) == ("an unknown distribution", "", "ready")
    assert PluginRegistry().load("numpy").name == "numpy"


def test_unreadable_metadata_harms_no_plugin() -> None:
    class Unreadable:
        @property
        def metadata(self) -> None:
            raise PermissionError("METADATA")

    point = EntryPoint("numpy", "gpt2spec_numpy.plugin", "gpt2spec")
    vars(point).update(dist=Unreadable())
    (found,) = PluginRegistry([point]).backends
    assert (str(found.plugin), found.status) == ("plugin 'numpy' of an unknown distribution", "ready")


def test_duplicate_name_is_an_error_that_names_both_distributions(install: Install) -> None:
    install("acme", card("chip"), version="1.0")
    install("bolt", card("chip"), version="2.0")
    registry = PluginRegistry()
    chips = [listing for listing in registry.backends if listing.name == "chip"]
    assert len(chips) == 2
    for chip in chips:
        assert "plugin 'acme' of acme 1.0" in chip.status
        assert "plugin 'bolt' of bolt 2.0" in chip.status
    with pytest.raises(PluginError, match=r"'chip' .*of acme 1\.0 and by .*of bolt 2\.0: uninstall one"):
        registry.load("chip")
    assert registry.load("numpy").name == "numpy"


def test_sound_backend_is_preferred_to_a_broken_plugin_of_its_name(install: Install) -> None:
    install("acme", "import no_such_module", entry_point="chip")
    install("bolt", card("chip"), entry_point="later-in-the-list")
    assert PluginRegistry().load("chip").name == "numpy"


def test_missing_framework_of_our_own_backend_names_the_extra(install: Install) -> None:
    # The name `gpt2spec` is taken on this path by the real distribution, so it is borrowed for the test.
    install("gpt2spec_extra", card("acme", requires=("no_such_framework",), extra="acme"))
    (info,) = [path for path in map(Path, sys.path) if (path / "gpt2spec_extra-1.0.dist-info").is_dir()]
    metadata = info / "gpt2spec_extra-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("gpt2spec_extra", "gpt2spec"))
    assert listing("acme").status == 'missing no_such_framework: pip install "gpt2spec[acme]"'
    with pytest.raises(BackendError, match=r'needs no_such_framework, .*: pip install "gpt2spec\[acme\]"'):
        PluginRegistry().load("acme")


def test_missing_framework_of_a_third_party_names_its_requirement(install: Install) -> None:
    install("acme", card("acme", requires=("numpy", "no_such_framework"), extra="acme-runtime>=2"))
    assert listing("acme").missing == ("no_such_framework",)
    with pytest.raises(BackendError, match='pip install "acme-runtime>=2"'):
        PluginRegistry().load("acme")


def test_unknown_backend_suggests_the_nearest() -> None:
    with pytest.raises(BackendError, match=r"no backend 'nunpy' \(did you mean 'numpy'\?\); installed: .*numpy"):
        PluginRegistry().load("nunpy")


def test_unknown_option_lists_what_the_factory_takes() -> None:
    with pytest.raises(BackendError, match=r"'mod' \(did you mean 'mode'\?\); it takes mode"):
        PluginRegistry().load("numpy", mod="fast")


FACTORIES = """
    from gpt2spec.errors import BackendError
    from gpt2spec_numpy.create import create

    def lies(device, dtype):
        return {"device": device}

    def needs(device, dtype, chip):
        return create(device, dtype)

    def anything(device, dtype, **options):
        assert options == {"name": "x", "point": 1}
        return create(device, dtype)

    def fails(device, dtype):
        raise RuntimeError("no chip\\nfound")

    def refuses(device, dtype):
        raise BackendError(f"there is no device {device!r}")

    def deviceless(dtype):
        return create(None, dtype)

    number = 7
"""


@pytest.mark.parametrize(
    ("function", "options", "error", "message"),
    [
        ("lies", {}, PluginError, r"returned \{'device': None\}, not a gpt2spec.backend.Backend"),
        ("needs", {}, BackendError, "missing a required argument: 'chip'; it takes chip"),
        ("needs", {"chap": 1}, BackendError, r"\(did you mean 'chip'\?\); it takes chip"),
        ("lies", {"chip": 1}, BackendError, "it takes none"),
        ("fails", {}, PluginError, r"RuntimeError: no chip found \(.*acme_factories\.py:16\)"),
        ("refuses", {"device": "gpu"}, BackendError, "^there is no device 'gpu'$"),
        ("deviceless", {}, BackendError, "unexpected keyword argument 'device'"),
        ("absent", {}, PluginError, "AttributeError: .*'absent'"),
        ("number", {}, PluginError, "TypeError: 7 is not a callable object"),
    ],
)
def test_factory_that_does_not_keep_the_contract_is_a_clear_error(
    install: Install, tmp_path: Path, function: str, options: dict[str, object], error: type, message: str
) -> None:
    (tmp_path / "site" / "acme_factories.py").write_text(textwrap.dedent(FACTORIES))
    install("acme", card("acme", factory=f"acme_factories:{function}"))
    with pytest.raises(error, match=message):
        PluginRegistry().load("acme", **options)  # type: ignore[arg-type]


def test_factory_with_free_keywords_gets_every_option(install: Install, tmp_path: Path) -> None:
    (tmp_path / "site" / "acme_factories.py").write_text(textwrap.dedent(FACTORIES))
    install("acme", card("acme", factory="acme_factories:anything"))
    assert PluginRegistry().load("acme", name="x", point=1).name == "numpy"


def test_factory_whose_import_fails_is_a_clear_error(install: Install, tmp_path: Path) -> None:
    (tmp_path / "site" / "acme_factories.py").write_text("import no_such_library")
    install("acme", card("acme", factory="acme_factories:create"))
    with pytest.raises(PluginError, match=r"plugin 'acme' of acme 1\.0.*No module named 'no_such_library'") as raised:
        PluginRegistry().load("acme")
    assert isinstance(raised.value.__cause__, ModuleNotFoundError), "the cause is kept for Python users"


def test_shards_are_opened_by_whoever_wrote_them(install: Install, tmp_path: Path) -> None:
    (tmp_path / "site" / "acme_parts.py").write_text("def opened(folder):\n    return {folder.name: None}\n")
    install("acme", card("acme", open_sharded="acme_parts:opened"))
    assert PluginRegistry().open_sharded("acme", tmp_path / "m") == {"m": None}
    with pytest.raises(BackendError, match="backend 'numpy' does not say how to read the parts"):
        PluginRegistry().open_sharded("numpy", tmp_path)
    with pytest.raises(BackendError, match="there is no backend 'acmee'"):
        PluginRegistry().open_sharded("acmee", tmp_path)
