"""`gpt2spec backends` lists the installed backends and whether they can be used. It imports no framework."""

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2spec.plugins import BackendListing

NAME = "backends"
HELP = "list the installed backends and whether they can be used"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--verbose", action="store_true", help="show framework versions, and tracebacks of faults")
    parser.add_argument("--json", action="store_true", help="print JSON with everything that is known")


def run(args: argparse.Namespace) -> int:
    """Print the list. A broken backend is shown; it is not an error of this command."""
    from gpt2spec.cli.table import format_table
    from gpt2spec.plugins import backend_listings

    listings = backend_listings()
    if args.json:
        print(json.dumps([as_json(listing) for listing in listings], indent=2))
        return 0
    rows = [("BACKEND", "FROM", "STATUS", "SUMMARY"), *map(as_row, listings)]
    print(format_table(rows))
    if args.verbose:
        for listing in listings:
            print(f"\n{listing.name}:")
            for module, version in framework_versions(listing).items():
                print(f"  {module} {version or 'is not installed'}")
            print(listing.plugin.traceback, end="")
    return 0


def as_row(listing: "BackendListing") -> tuple[str, str, str, str]:
    """A row of the table."""
    origin = f"{listing.plugin.distribution} {listing.plugin.version}".rstrip()
    return listing.name, origin, listing.status, listing.info.summary if listing.info else ""


def as_json(listing: "BackendListing") -> dict[str, Any]:
    """Everything that is known about a backend, for JSON."""
    return {
        "name": listing.name,
        "summary": listing.info.summary if listing.info else "",
        "plugin": listing.plugin.name,
        "distribution": listing.plugin.distribution,
        "version": listing.plugin.version,
        "status": "broken" if listing.plugin.fault else "missing" if listing.missing else "ready",
        "missing": list(listing.missing),
        "install": listing.install,
        "fault": listing.plugin.fault,
        "traceback": listing.plugin.traceback,
        "frameworks": framework_versions(listing),
    }


def framework_versions(listing: "BackendListing") -> dict[str, str]:
    """The versions of the modules that a backend requires, from their metadata; empty where one is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for module in listing.info.requires if listing.info else ():
        try:
            versions[module] = version(module)
        except PackageNotFoundError:  # the distribution may have another name than the module
            versions[module] = "" if module in listing.missing else "of unknown version"
    return versions
