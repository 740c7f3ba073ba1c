/* GPT-2 in one file of C99: logits, taps, loss, the gradient by every weight, and AdamW.
 *
 *     cc -std=c99 -O2 -Wall -Wextra -Werror -pedantic gpt2.c -lm -o gpt2
 *     ./gpt2 VECTORS OUTPUTS
 *
 * It answers each line of VECTORS/questions.txt (`gpt2spec vectors export`) by one file in the existing folder
 * OUTPUTS, for `gpt2spec vectors judge`. Numbers are kept in float and summed in double; the machine is little-endian.
 *
 * Shapes: B rows, T positions, N = B T, D = n_embd, H = n_head, d = D / H, V = vocab_size. All arrays are row-major.
 * -DMISTAKE_... builds the program with one classic mistake; README.md lists them.
 */
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RANK 4
#define MAX_NAME 96
#define MAX_LINE 4096
#define MAX_PATH_LENGTH 4096
#define MAX_EXTENT ((size_t)1 << 20)

static void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fprintf(stderr, "gpt2: ");
    vfprintf(stderr, format, values);
    fprintf(stderr, "\n");
    va_end(values);
    exit(2);
}

/* Write a name or a path into `text`. */
static void print_name(char *text, size_t capacity, const char *format, ...) {
    va_list values;
    va_start(values, format);
    const int length = vsnprintf(text, capacity, format, values);
    va_end(values);
    if (length < 0 || (size_t)length >= capacity) fail("a name is too long: %s", text);
}

/* ------------------------------------------------------------------ memory: all of it is freed after a question */

typedef struct Allocation {
    struct Allocation *next;
} Allocation;

static Allocation *allocations = NULL;

static void *zeroed(size_t count, size_t size) {
    const size_t header = 16; /* keeps what follows aligned */
    if (size && count > (SIZE_MAX - header) / size) fail("too large: %lu values", (unsigned long)count);
    Allocation *allocation = calloc(1, header + count * size);
    if (!allocation) fail("there is not enough memory");
    allocation->next = allocations;
    allocations = allocation;
    return (char *)allocation + header;
}

static float *floats(size_t count) { return zeroed(count, sizeof(float)); }

static void free_all(void) {
    while (allocations) {
        Allocation *next = allocations->next;
        free(allocations);
        allocations = next;
    }
}

/* ------------------------------------------------------------------ safetensors
 * Eight bytes: the length of the header, little-endian. The header, JSON:
 * {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}. Then the values. */

typedef struct {
    char name[MAX_NAME];
    char dtype[8];
    size_t rank, shape[MAX_RANK], begin, end;
    const void *values;
} Tensor;

typedef struct {
    const char *path;
    size_t count;
    Tensor *tensors;
} File;

typedef struct {
    const char *path, *at;
} Json;

static void expect(Json *json, char wanted) {
    while (isspace((unsigned char)*json->at)) json->at++;
    if (*json->at != wanted) fail("%s: its header has no '%c' where one is expected", json->path, wanted);
    json->at++;
}

static int follows(Json *json, char wanted) {
    while (isspace((unsigned char)*json->at)) json->at++;
    if (*json->at != wanted) return 0;
    json->at++;
    return 1;
}

static void read_string(Json *json, char *text, size_t capacity) {
    size_t length = 0;
    expect(json, '"');
    for (; *json->at != '"'; json->at++) {
        if (*json->at == '\0' || *json->at == '\\' || length + 1 >= capacity)
            fail("%s: its header has a text that this program cannot read", json->path);
        text[length++] = *json->at;
    }
    text[length] = '\0';
    json->at++;
}

static size_t read_numbers(Json *json, size_t *numbers, size_t capacity) {
    size_t count = 0;
    expect(json, '[');
    if (follows(json, ']')) return 0;
    do {
        char *end;
        const double number = strtod(json->at, &end);
        if (end == json->at || count == capacity || !(number >= 0 && number <= 1e15))
            fail("%s: its header has a list that this program cannot read", json->path);
        numbers[count++] = (size_t)number;
        json->at = end;
    } while (follows(json, ','));
    expect(json, ']');
    return count;
}

static void read_metadata(Json *json) {
    char text[MAX_LINE];
    expect(json, '{');
    if (follows(json, '}')) return;
    do {
        read_string(json, text, sizeof text);
        expect(json, ':');
        read_string(json, text, sizeof text);
    } while (follows(json, ','));
    expect(json, '}');
}

static void read_entry(Json *json, Tensor *tensor) {
    char key[32];
    size_t offsets[2] = {0, 0};
    expect(json, '{');
    do {
        read_string(json, key, sizeof key);
        expect(json, ':');
        if (!strcmp(key, "dtype")) read_string(json, tensor->dtype, sizeof tensor->dtype);
        else if (!strcmp(key, "shape")) tensor->rank = read_numbers(json, tensor->shape, MAX_RANK);
        else if (!strcmp(key, "data_offsets")) read_numbers(json, offsets, 2);
        else fail("%s: its header has an unknown key '%s'", json->path, key);
    } while (follows(json, ','));
    expect(json, '}');
    tensor->begin = offsets[0];
    tensor->end = offsets[1];
}

static size_t size_of(const char *dtype) { return !strcmp(dtype, "F64") ? 8 : 4; }

static size_t elements(size_t rank, const size_t *shape) {
    size_t count = 1;
    for (size_t i = 0; i < rank; i++) {
        if (shape[i] > MAX_EXTENT || count > MAX_EXTENT * MAX_EXTENT / (shape[i] + 1)) fail("a tensor is too large");
        count *= shape[i];
    }
    return count;
}

static const char *read_bytes(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) fail("cannot open %s", path);
    fseek(file, 0, SEEK_END);
    const long length = ftell(file);
    if (length < 8) fail("%s is too short", path);
    rewind(file);
    char *bytes = zeroed((size_t)length, 1);
    if (fread(bytes, 1, (size_t)length, file) != (size_t)length) fail("cannot read %s", path);
    fclose(file);
    *size = (size_t)length;
    return bytes;
}

static uint64_t little_endian(const char *bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | (unsigned char)bytes[i];
    return value;
}

/* The values of a tensor, copied to where they are aligned. */
static const void *values_of(const File *file, const Tensor *t, const char *data, size_t size) {
    const size_t bytes = elements(t->rank, t->shape) * size_of(t->dtype);
    if (t->begin > t->end || t->end > size || t->end - t->begin != bytes)
        fail("%s: the bytes of '%s' are not where its header says", file->path, t->name);
    char *values = zeroed(bytes, 1);
    memcpy(values, data + t->begin, bytes);
    return values;
}

static File read_safetensors(const char *path) {
    size_t size;
    const char *bytes = read_bytes(path, &size);
    if (little_endian(bytes) > size - 8) fail("%s: its header is longer than the file", path);
    const size_t length = (size_t)little_endian(bytes);
    char *header = zeroed(length + 1, 1);
    memcpy(header, bytes + 8, length);
    File file = {path, 0, zeroed(length / 16 + 1, sizeof(Tensor))}; /* an entry is longer than 16 characters */
    Json json = {path, header};
    expect(&json, '{');
    do {
        Tensor *tensor = &file.tensors[file.count];
        read_string(&json, tensor->name, sizeof tensor->name);
        expect(&json, ':');
        if (!strcmp(tensor->name, "__metadata__")) {
            read_metadata(&json);
            continue;
        }
        read_entry(&json, tensor);
        tensor->values = values_of(&file, tensor, bytes + 8 + length, size - 8 - length);
        file.count++;
    } while (follows(&json, ','));
    expect(&json, '}');
    return file;
}

static const Tensor *find(const File *file, const char *name, const char *dtype, size_t rank) {
    for (size_t i = 0; i < file->count; i++) {
        const Tensor *tensor = &file->tensors[i];
        if (strcmp(tensor->name, name)) continue;
        if (strcmp(tensor->dtype, dtype) || tensor->rank != rank)
            fail("%s: '%s' is not %s of rank %lu", file->path, name, dtype, (unsigned long)rank);
        return tensor;
    }
    fail("%s has no tensor '%s'", file->path, name);
    return NULL;
}

/* An answer: float tensors, collected and then written together. */
typedef struct {
    char name[MAX_NAME];
    size_t rank, shape[MAX_RANK];
    const float *values;
} Named;

typedef struct {
    size_t count, capacity;
    Named *tensors;
} Answer;

static void add(Answer *answer, const char *name, size_t rank, const size_t *shape, const float *values) {
    if (answer->count == answer->capacity) fail("an answer has too many tensors");
    Named *named = &answer->tensors[answer->count++];
    print_name(named->name, sizeof named->name, "%s", name);
    named->rank = rank;
    for (size_t i = 0; i < rank; i++) named->shape[i] = shape[i];
    named->values = values;
}

static void append(char *text, size_t capacity, size_t *length, const char *format, ...) {
    va_list values;
    va_start(values, format);
    const int written = vsnprintf(text + *length, capacity - *length, format, values);
    va_end(values);
    if (written < 0 || (size_t)written >= capacity - *length) fail("a header is too long");
    *length += (size_t)written;
}

static char *header_of(const Answer *answer, size_t *length) {
    const size_t capacity = 64 + answer->count * (MAX_NAME + 192);
    char *header = zeroed(capacity, 1);
    size_t offset = 0;
    *length = 0;
    for (size_t i = 0; i < answer->count; i++) {
        const Named *t = &answer->tensors[i];
        const size_t end = offset + elements(t->rank, t->shape) * sizeof(float);
        append(header, capacity, length, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "{", t->name);
        for (size_t axis = 0; axis < t->rank; axis++)
            append(header, capacity, length, "%s%lu", axis ? "," : "", (unsigned long)t->shape[axis]);
        append(header, capacity, length, "],\"data_offsets\":[%lu,%lu]}", (unsigned long)offset, (unsigned long)end);
        offset = end;
    }
    append(header, capacity, length, "}");
    while (*length % 8) append(header, capacity, length, " ");
    return header;
}

static void write_safetensors(const char *path, const Answer *answer) {
    size_t length;
    const char *header = header_of(answer, &length);
    FILE *file = fopen(path, "wb");
    if (!file) fail("cannot write %s", path);
    for (int i = 0; i < 8; i++) fputc((int)((uint64_t)length >> 8 * i & 255), file);
    fwrite(header, 1, length, file);
    for (size_t i = 0; i < answer->count; i++) {
        const Named *tensor = &answer->tensors[i];
        fwrite(tensor->values, sizeof(float), elements(tensor->rank, tensor->shape), file);
    }
    if (ferror(file) | fclose(file)) fail("cannot write %s", path);
}

/* ------------------------------------------------------------------ questions: lines of key=value words */

typedef struct {
    char name[MAX_NAME], operation[32], weights[256], inputs[256], decay[16];
    size_t n_layer, n_head, n_embd, n_ctx, vocab_size, updates;
    double layer_norm_epsilon, beta1, beta2, epsilon, weight_decay, clip;
} Question;

static const char *value_of(const char *line, const char *key) {
    const size_t length = strlen(key);
    for (const char *at = line; (at = strstr(at, key)) != NULL; at += length)
        if ((at == line || at[-1] == ' ') && at[length] == '=') return at + length + 1;
    fail("a question has no %s: %.60s", key, line);
    return NULL;
}

static void text_of(const char *line, const char *key, char *text, size_t capacity) {
    const char *value = value_of(line, key);
    const size_t length = strcspn(value, " \r\n");
    if (length >= capacity) fail("a question has a long %s: %.60s", key, line);
    memcpy(text, value, length);
    text[length] = '\0';
}

static double number_of(const char *line, const char *key) { return strtod(value_of(line, key), NULL); }

static size_t extent_of(const char *line, const char *key) {
    const double number = number_of(line, key);
    if (!(number >= 1 && number <= (double)MAX_EXTENT)) fail("a question has a %s of %g", key, number);
    return (size_t)number;
}

static Question parse_question(const char *line) {
    Question q = {0};
    text_of(line, "name", q.name, sizeof q.name);
    text_of(line, "operation", q.operation, sizeof q.operation);
    text_of(line, "weights", q.weights, sizeof q.weights);
    text_of(line, "inputs", q.inputs, sizeof q.inputs);
    q.n_layer = extent_of(line, "n_layer");
    q.n_embd = extent_of(line, "n_embd");
    q.n_ctx = extent_of(line, "n_ctx");
    q.vocab_size = extent_of(line, "vocab_size");
    if (strcmp(q.operation, "adamw_steps")) {
        q.n_head = extent_of(line, "n_head");
        q.layer_norm_epsilon = number_of(line, "layer_norm_epsilon");
        if (q.n_embd % q.n_head) fail("n_embd is not a multiple of n_head");
        return q;
    }
    q.updates = extent_of(line, "updates");
    q.beta1 = number_of(line, "beta1");
    q.beta2 = number_of(line, "beta2");
    q.epsilon = number_of(line, "epsilon");
    q.weight_decay = number_of(line, "weight_decay");
    q.clip = number_of(line, "clip");
    text_of(line, "decay", q.decay, sizeof q.decay);
    return q;
}

/* ------------------------------------------------------------------ weights */

typedef struct {
    char name[MAX_NAME];
    size_t rank, shape[2], size;
    float *values;
} Weight;

typedef struct {
    size_t count;
    Weight *table; /* wte, wpe, those of each layer, ln_f */
} Weights;

enum { WTE, WPE, FIRST_LAYER };
enum {
    LN_1_WEIGHT, LN_1_BIAS, C_ATTN_WEIGHT, C_ATTN_BIAS, ATTN_PROJ_WEIGHT, ATTN_PROJ_BIAS,
    LN_2_WEIGHT, LN_2_BIAS, C_FC_WEIGHT, C_FC_BIAS, MLP_PROJ_WEIGHT, MLP_PROJ_BIAS, PER_LAYER
};

/* Names within a layer, and shapes in units of D: [rows, columns] or [columns]. */
static const struct {
    const char *name;
    size_t rows, columns;
} LAYER[PER_LAYER] = {
    {"ln_1.weight", 0, 1}, {"ln_1.bias", 0, 1},
    {"attn.c_attn.weight", 1, 3}, {"attn.c_attn.bias", 0, 3},
    {"attn.c_proj.weight", 1, 1}, {"attn.c_proj.bias", 0, 1},
    {"ln_2.weight", 0, 1}, {"ln_2.bias", 0, 1},
    {"mlp.c_fc.weight", 1, 4}, {"mlp.c_fc.bias", 0, 4},
    {"mlp.c_proj.weight", 4, 1}, {"mlp.c_proj.bias", 0, 1},
};

static void define(Weights *weights, const char *name, size_t rows, size_t columns) {
    Weight *weight = &weights->table[weights->count++];
    print_name(weight->name, sizeof weight->name, "%s", name);
    weight->rank = rows ? 2 : 1;
    weight->shape[0] = rows ? rows : columns;
    weight->shape[1] = columns;
    weight->size = elements(weight->rank, weight->shape);
    weight->values = floats(weight->size);
}

/* The weight table of a model, all zero. */
static Weights zero_weights(const Question *q) {
    const size_t D = q->n_embd;
    Weights weights = {0, zeroed(FIRST_LAYER + q->n_layer * PER_LAYER + 2, sizeof(Weight))};
    char name[MAX_NAME];
    define(&weights, "wte.weight", q->vocab_size, D);
    define(&weights, "wpe.weight", q->n_ctx, D);
    for (size_t layer = 0; layer < q->n_layer; layer++)
        for (int i = 0; i < PER_LAYER; i++) {
            print_name(name, sizeof name, "h.%lu.%s", (unsigned long)layer, LAYER[i].name);
            define(&weights, name, LAYER[i].rows * D, LAYER[i].columns * D);
        }
    define(&weights, "ln_f.weight", 0, D);
    define(&weights, "ln_f.bias", 0, D);
    return weights;
}

static float *layer_weight(const Weights *weights, size_t layer, int which) {
    return weights->table[FIRST_LAYER + layer * PER_LAYER + (size_t)which].values;
}

static float *final_weight(const Weights *weights) { return weights->table[weights->count - 2].values; }
static float *final_bias(const Weights *weights) { return weights->table[weights->count - 1].values; }

/* Fill a weight table from the tensors of a file called prefix + name. */
static Weights load_weights(const Question *q, const File *file, const char *prefix) {
    Weights weights = zero_weights(q);
    for (size_t i = 0; i < weights.count; i++) {
        Weight *weight = &weights.table[i];
        char name[MAX_NAME];
        print_name(name, sizeof name, "%s%s", prefix, weight->name);
        const Tensor *tensor = find(file, name, "F32", weight->rank);
        for (size_t axis = 0; axis < weight->rank; axis++)
            if (tensor->shape[axis] != weight->shape[axis]) fail("%s: '%s' has the wrong shape", file->path, name);
        memcpy(weight->values, tensor->values, weight->size * sizeof(float));
    }
    return weights;
}

/* ------------------------------------------------------------------ linear: y = x W + b, [n, in] -> [n, out] */

static void linear(float *y, const float *x, const float *W, const float *b, size_t n, size_t in, size_t out) {
    for (size_t row = 0; row < n; row++)
        for (size_t j = 0; j < out; j++) {
            double sum = b[j];
            for (size_t i = 0; i < in; i++) sum += (double)x[row * in + i] * W[i * out + j];
            y[row * out + j] = (float)sum;
        }
}

/* dx = dy W^T;  dW += x^T dy;  db += the sum of dy over rows. */
static void linear_backward(float *dx, float *dW, float *db, const float *dy, const float *x, const float *W, size_t n,
                            size_t in, size_t out) {
    for (size_t row = 0; row < n; row++)
        for (size_t i = 0; i < in; i++) {
            double sum = 0;
            for (size_t j = 0; j < out; j++) sum += (double)dy[row * out + j] * W[i * out + j];
            dx[row * in + i] = (float)sum;
        }
    for (size_t i = 0; i < in; i++)
        for (size_t j = 0; j < out; j++) {
            double sum = 0;
            for (size_t row = 0; row < n; row++) sum += (double)x[row * in + i] * dy[row * out + j];
            dW[i * out + j] += (float)sum;
        }
    for (size_t j = 0; j < out; j++) {
        double sum = 0;
        for (size_t row = 0; row < n; row++) sum += dy[row * out + j];
        db[j] += (float)sum;
    }
}

/* ------------------------------------------------------------------ layer norm over D, with the biased variance */

typedef struct {
    double mean, inverse; /* inverse = 1 / sqrt(variance + epsilon) */
} Statistics;

static Statistics statistics(const float *x, size_t D, double epsilon) {
    double mean = 0, variance = 0;
    for (size_t i = 0; i < D; i++) mean += x[i] / (double)D;
    for (size_t i = 0; i < D; i++) variance += (x[i] - mean) * (x[i] - mean) / (double)D;
#ifdef MISTAKE_LN_EPSILON_1E_6
    epsilon = 1e-6;
#endif
    return (Statistics){mean, 1 / sqrt(variance + epsilon)};
}

/* y = (x - mean) / sqrt(variance + epsilon) * weight + bias, each of n rows by itself. */
static void layer_norm(float *y, const float *x, const float *weight, const float *bias, size_t n, size_t D,
                       double epsilon) {
    for (size_t row = 0; row < n; row++, x += D, y += D) {
        const Statistics s = statistics(x, D, epsilon);
        for (size_t i = 0; i < D; i++) y[i] = (float)((x[i] - s.mean) * s.inverse * weight[i] + bias[i]);
    }
}

/* With z the normalised x and g = dy weight:  dx += inverse (g - mean(g) - z mean(g z));
 * dweight += dy z;  dbias += dy. */
static void layer_norm_backward(float *dx, float *dweight, float *dbias, const float *dy, const float *x,
                                const float *weight, size_t n, size_t D, double epsilon) {
    for (size_t row = 0; row < n; row++, x += D, dx += D, dy += D) {
        const Statistics s = statistics(x, D, epsilon);
        double mean_g = 0, mean_gz = 0;
        for (size_t i = 0; i < D; i++) {
            const double z = (x[i] - s.mean) * s.inverse, g = (double)dy[i] * weight[i];
            mean_g += g / (double)D;
            mean_gz += g * z / (double)D;
            dweight[i] += (float)(dy[i] * z);
            dbias[i] += dy[i];
        }
        for (size_t i = 0; i < D; i++) {
            const double z = (x[i] - s.mean) * s.inverse, g = (double)dy[i] * weight[i];
            dx[i] += (float)(s.inverse * (g - mean_g - z * mean_gz));
        }
    }
}

/* ------------------------------------------------------------------ GELU, the tanh form */

#ifdef MISTAKE_GELU_ERF
static double gelu(double x) { return 0.5 * x * (1 + erf(x * 0.70710678118654752440)); }

static double gelu_slope(double x) {
    return 0.5 * (1 + erf(x * 0.70710678118654752440)) + x * exp(-0.5 * x * x) * 0.39894228040143267794;
}
#else
static const double ROOT = 0.79788456080286535588, CUBIC = 0.044715; /* ROOT = sqrt(2 / pi) */

/* 0.5 x (1 + tanh(ROOT (x + CUBIC x^3))) */
static double gelu(double x) { return 0.5 * x * (1 + tanh(ROOT * (x + CUBIC * x * x * x))); }

static double gelu_slope(double x) {
    const double t = tanh(ROOT * (x + CUBIC * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT * (1 + 3 * CUBIC * x * x);
}
#endif

/* ------------------------------------------------------------------ causal self-attention
 * qkv [B, T, 3 D]: a position's queries, keys and values side by side, each with its heads side by side. */

#ifdef MISTAKE_ATTENTION_NO_SCALE
#define ATTENTION_SCALE(d) 1.0
#else
#define ATTENTION_SCALE(d) (1 / sqrt((double)(d)))
#endif

/* How many keys the query at position t of T sees: its own and those before it. */
#ifdef MISTAKE_MASK_SHIFTED
#define VISIBLE_KEYS(t, T) ((t) + 2 < (T) ? (t) + 2 : (T))
#else
#define VISIBLE_KEYS(t, T) ((t) + 1)
#endif

static double dot(const float *a, const float *b, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* In place: exp(x) / sum(exp(x)). */
static void softmax(float *x, size_t count) {
    double peak = x[0], sum = 0;
    for (size_t i = 1; i < count; i++) peak = x[i] > peak ? x[i] : peak;
    for (size_t i = 0; i < count; i++) sum += exp(x[i] - peak);
    for (size_t i = 0; i < count; i++) x[i] = (float)(exp(x[i] - peak) / sum);
}

/* weights [B, H, T, T] = softmax(q k^T / sqrt(d)) over the visible keys, 0 elsewhere;  y [B, T, D] = weights v. */
static void attention(float *y, float *weights, const float *qkv, size_t B, size_t T, size_t H, size_t d) {
    const size_t D = H * d, step = 3 * D;
    for (size_t b = 0; b < B; b++)
        for (size_t h = 0; h < H; h++)
            for (size_t t = 0; t < T; t++) {
                const float *q = qkv + b * T * step + h * d, *k = q + D, *v = q + 2 * D;
                float *w = weights + ((b * H + h) * T + t) * T;
                const size_t keys = VISIBLE_KEYS(t, T);
                for (size_t s = 0; s < keys; s++)
                    w[s] = (float)(dot(q + t * step, k + s * step, d) * ATTENTION_SCALE(d));
                softmax(w, keys);
                for (size_t i = 0; i < d; i++) {
                    double sum = 0;
                    for (size_t s = 0; s < keys; s++) sum += (double)w[s] * v[s * step + i];
                    y[(b * T + t) * D + h * d + i] = (float)sum;
                }
            }
}

/* For each query, with w its weights: dv_s += w_s dy;  dw_s = dy . v_s;  dscore_s = w_s (dw_s - sum_r w_r dw_r);
 * dq += dscore_s k_s / sqrt(d);  dk_s += dscore_s q / sqrt(d). dqkv starts at zero. */
static void attention_backward(float *dqkv, const float *dy, const float *weights, const float *qkv, size_t B, size_t T,
                               size_t H, size_t d) {
    const size_t D = H * d, step = 3 * D;
    for (size_t b = 0; b < B; b++)
        for (size_t h = 0; h < H; h++)
            for (size_t t = 0; t < T; t++) {
                const size_t head = b * T * step + h * d, keys = VISIBLE_KEYS(t, T);
                const float *q = qkv + head, *k = q + D, *v = q + 2 * D;
                float *dq = dqkv + head, *dk = dq + D, *dv = dq + 2 * D;
                const float *w = weights + ((b * H + h) * T + t) * T, *g = dy + (b * T + t) * D + h * d;
                double mean = 0;
                for (size_t s = 0; s < keys; s++) mean += w[s] * dot(g, v + s * step, d);
                for (size_t s = 0; s < keys; s++) {
                    const double dscore = w[s] * (dot(g, v + s * step, d) - mean) * ATTENTION_SCALE(d);
                    for (size_t i = 0; i < d; i++) {
                        dq[t * step + i] += (float)(dscore * k[s * step + i]);
                        dk[s * step + i] += (float)(dscore * q[t * step + i]);
                        dv[s * step + i] += w[s] * g[i];
                    }
                }
            }
}

/* ------------------------------------------------------------------ the model */

/* What a block computes, kept for the backward pass. x is the residual stream before it. */
typedef struct {
    float *x, *norm1, *qkv, *weights, *heads, *attn;     /* [N, D] but for qkv [N, 3D] and weights [B, H, T, T] */
    float *middle, *norm2, *hidden, *active, *mlp, *out; /* [N, D] but for hidden and active [N, 4D] */
} Layer;

typedef struct {
    size_t B, T, N;
    const int32_t *tokens;
    Layer *layers;
    float *normed, *logits; /* [N, D], [N, V] */
} Pass;

static void add_into(float *y, const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i++) y[i] = a[i] + b[i];
}

static Layer block(const Question *q, const Weights *p, size_t layer, float *x, size_t B, size_t T) {
    const size_t N = B * T, D = q->n_embd, H = q->n_head;
    const double epsilon = q->layer_norm_epsilon;
    Layer a = {x,         floats(N * D), floats(N * 3 * D), floats(B * H * T * T), floats(N * D), floats(N * D),
               floats(N * D), floats(N * D), floats(N * 4 * D), floats(N * 4 * D),     floats(N * D), floats(N * D)};
#define P(which) layer_weight(p, layer, which)
    layer_norm(a.norm1, x, P(LN_1_WEIGHT), P(LN_1_BIAS), N, D, epsilon);
    linear(a.qkv, a.norm1, P(C_ATTN_WEIGHT), P(C_ATTN_BIAS), N, D, 3 * D);
    attention(a.heads, a.weights, a.qkv, B, T, H, D / H);
    linear(a.attn, a.heads, P(ATTN_PROJ_WEIGHT), P(ATTN_PROJ_BIAS), N, D, D);
    add_into(a.middle, x, a.attn, N * D);
    layer_norm(a.norm2, a.middle, P(LN_2_WEIGHT), P(LN_2_BIAS), N, D, epsilon);
    linear(a.hidden, a.norm2, P(C_FC_WEIGHT), P(C_FC_BIAS), N, D, 4 * D);
    for (size_t i = 0; i < N * 4 * D; i++) a.active[i] = (float)gelu(a.hidden[i]);
    linear(a.mlp, a.active, P(MLP_PROJ_WEIGHT), P(MLP_PROJ_BIAS), N, 4 * D, D);
    add_into(a.out, a.middle, a.mlp, N * D);
#undef P
    return a;
}

/* dx [N, D] comes as the gradient by the block's output and leaves as that by its input. */
static void block_backward(const Question *q, const Weights *p, Weights *grad, size_t layer, const Layer *a, float *dx,
                           size_t B, size_t T) {
    const size_t N = B * T, D = q->n_embd, H = q->n_head;
    const double epsilon = q->layer_norm_epsilon;
    float *narrow = floats(N * D), *wide = floats(N * 4 * D), *dqkv = floats(N * 3 * D);
#define P(which) layer_weight(p, layer, which)
#define G(which) layer_weight(grad, layer, which)
    linear_backward(wide, G(MLP_PROJ_WEIGHT), G(MLP_PROJ_BIAS), dx, a->active, P(MLP_PROJ_WEIGHT), N, 4 * D, D);
    for (size_t i = 0; i < N * 4 * D; i++) wide[i] = (float)(wide[i] * gelu_slope(a->hidden[i]));
    linear_backward(narrow, G(C_FC_WEIGHT), G(C_FC_BIAS), wide, a->norm2, P(C_FC_WEIGHT), N, D, 4 * D);
    layer_norm_backward(dx, G(LN_2_WEIGHT), G(LN_2_BIAS), narrow, a->middle, P(LN_2_WEIGHT), N, D, epsilon);
    linear_backward(narrow, G(ATTN_PROJ_WEIGHT), G(ATTN_PROJ_BIAS), dx, a->heads, P(ATTN_PROJ_WEIGHT), N, D, D);
    attention_backward(dqkv, narrow, a->weights, a->qkv, B, T, H, D / H);
    linear_backward(narrow, G(C_ATTN_WEIGHT), G(C_ATTN_BIAS), dqkv, a->norm1, P(C_ATTN_WEIGHT), N, D, 3 * D);
    layer_norm_backward(dx, G(LN_1_WEIGHT), G(LN_1_BIAS), narrow, a->x, P(LN_1_WEIGHT), N, D, epsilon);
#undef P
#undef G
}

/* Which row of wpe the token at t gets. */
#ifdef MISTAKE_POSITIONS_OFF_BY_ONE
#define POSITION(t, n_ctx) ((t) + 1 < (n_ctx) ? (t) + 1 : (n_ctx) - 1)
#else
#define POSITION(t, n_ctx) (t)
#endif

/* Embedding, blocks, final norm and the tied head: logits [N, V] = normed wte^T. */
static Pass forward(const Question *q, const Weights *p, const Tensor *tokens) {
    const size_t B = tokens->shape[0], T = tokens->shape[1], N = B * T, D = q->n_embd, V = q->vocab_size;
    Pass pass = {B, T, N, tokens->values, zeroed(q->n_layer, sizeof(Layer)), floats(N * D), floats(N * V)};
    float *x = floats(N * D);
    const float *wte = p->table[WTE].values, *wpe = p->table[WPE].values;
    for (size_t n = 0; n < N; n++)
        add_into(x + n * D, wte + (size_t)pass.tokens[n] * D, wpe + POSITION(n % T, q->n_ctx) * D, D);
    for (size_t layer = 0; layer < q->n_layer; layer++) {
        pass.layers[layer] = block(q, p, layer, x, B, T);
        x = pass.layers[layer].out;
    }
    layer_norm(pass.normed, x, final_weight(p), final_bias(p), N, D, q->layer_norm_epsilon);
    for (size_t n = 0; n < N; n++)
        for (size_t u = 0; u < V; u++) pass.logits[n * V + u] = (float)dot(pass.normed + n * D, wte + u * D, D);
    return pass;
}

/* The mean over N of log(sum(exp(logits))) - logits[target], in nats;
 * dlogits = (softmax(logits) - onehot(target)) / N. */
static double cross_entropy(float *dlogits, const Pass *pass, const int32_t *targets, size_t V) {
    double loss = 0;
    for (size_t n = 0; n < pass->N; n++, dlogits += V) {
        const size_t target = (size_t)targets[n];
        const float *logits = pass->logits + n * V;
        double peak = logits[0], sum = 0;
        for (size_t u = 1; u < V; u++) peak = logits[u] > peak ? logits[u] : peak;
        for (size_t u = 0; u < V; u++) sum += exp(logits[u] - peak);
        loss += (log(sum) + peak - logits[target]) / (double)pass->N;
        for (size_t u = 0; u < V; u++) {
            const double probability = exp(logits[u] - peak) / sum;
            dlogits[u] = (float)((probability - (u == target)) / (double)pass->N);
        }
    }
    return loss;
}

/* The gradient by every weight, from that by the logits. wte has two parts: as the head and as the embedding. */
static Weights backward(const Question *q, const Weights *p, const Pass *pass, const float *dlogits) {
    const size_t N = pass->N, D = q->n_embd, V = q->vocab_size;
    Weights grad = zero_weights(q);
    const float *wte = p->table[WTE].values;
    float *dwte = grad.table[WTE].values, *dwpe = grad.table[WPE].values, *dnormed = floats(N * D), *dx = floats(N * D);
    for (size_t n = 0; n < N; n++)
        for (size_t i = 0; i < D; i++) {
            double sum = 0;
            for (size_t u = 0; u < V; u++) sum += (double)dlogits[n * V + u] * wte[u * D + i];
            dnormed[n * D + i] = (float)sum;
        }
    for (size_t u = 0; u < V; u++)
        for (size_t n = 0; n < N; n++)
            for (size_t i = 0; i < D; i++) dwte[u * D + i] += dlogits[n * V + u] * pass->normed[n * D + i];
    const float *last = pass->layers[q->n_layer - 1].out;
    layer_norm_backward(dx, final_weight(&grad), final_bias(&grad), dnormed, last, final_weight(p), N, D,
                        q->layer_norm_epsilon);
    for (size_t layer = q->n_layer; layer-- > 0;)
        block_backward(q, p, &grad, layer, &pass->layers[layer], dx, pass->B, pass->T);
#ifndef MISTAKE_EMBEDDING_GRADIENT_MISSING
    for (size_t n = 0; n < N; n++)
        for (size_t i = 0; i < D; i++) dwte[(size_t)pass->tokens[n] * D + i] += dx[n * D + i];
#endif
    for (size_t n = 0; n < N; n++)
        for (size_t i = 0; i < D; i++) dwpe[POSITION(n % pass->T, q->n_ctx) * D + i] += dx[n * D + i];
    return grad;
}

/* ------------------------------------------------------------------ AdamW with clipping by the global norm */

static double clip_scale(const Weights *grad, double clip) {
    double squares = 0;
    for (size_t i = 0; i < grad->count; i++) {
        const float *values = grad->table[i].values;
        squares += dot(values, values, grad->table[i].size);
    }
    const double norm = sqrt(squares);
    return clip > 0 && norm > clip ? clip / norm : 1;
}

/* m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2, with g scaled by the clipping factor;
 * weight -= rate (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon) + decay weight), t = 1, 2, ... */
static void adamw_update(const Question *q, Weights *p, Weights *m, Weights *v, const Weights *grad, double rate,
                         size_t t) {
    const double scale = clip_scale(grad, q->clip);
    const double correction1 = 1 - pow(q->beta1, (double)t), correction2 = 1 - pow(q->beta2, (double)t);
    for (size_t i = 0; i < p->count; i++) {
        const int decays = !strcmp(q->decay, "all") || p->table[i].rank == 2;
        const double decay = decays ? q->weight_decay : 0;
        float *weight = p->table[i].values, *mean = m->table[i].values, *square = v->table[i].values;
        for (size_t j = 0; j < p->table[i].size; j++) {
            double g = scale * grad->table[i].values[j], separate = decay * weight[j];
#ifdef MISTAKE_DECAY_L2
            g += separate;
            separate = 0;
#endif
            mean[j] = (float)(q->beta1 * mean[j] + (1 - q->beta1) * g);
            square[j] = (float)(q->beta2 * square[j] + (1 - q->beta2) * g * g);
            const double direction = mean[j] / correction1 / (sqrt(square[j] / correction2) + q->epsilon);
            weight[j] = (float)(weight[j] - rate * (direction + separate));
        }
    }
}

/* ------------------------------------------------------------------ answers */

static const Tensor *token_ids(const Question *q, const File *inputs, const char *name) {
    const Tensor *ids = find(inputs, name, "I32", 2);
    const size_t count = elements(2, ids->shape);
    if (!count || ids->shape[1] > q->n_ctx) fail("%s: '%s' is empty or longer than the context", inputs->path, name);
    for (size_t i = 0; i < count; i++) {
        const int32_t id = ((const int32_t *)ids->values)[i];
        if (id < 0 || (size_t)id >= q->vocab_size) fail("%s: '%s' has the id %ld", inputs->path, name, (long)id);
    }
    return ids;
}

static void answer_taps(Answer *answer, const Question *q, const Pass *pass) {
    const size_t shape[] = {pass->B, pass->T, q->n_embd};
    for (size_t layer = 0; layer < q->n_layer; layer++) {
        const Layer *a = &pass->layers[layer];
        const struct {
            const char *name;
            const float *values;
        } taps[] = {{"attn", a->attn}, {"mlp", a->mlp}, {"residual", a->out}};
        for (size_t i = 0; i < 3; i++) {
            char name[MAX_NAME];
            print_name(name, sizeof name, "h.%lu.%s", (unsigned long)layer, taps[i].name);
            add(answer, name, 3, shape, taps[i].values);
        }
    }
}

static void add_weights(Answer *answer, const Weights *weights, const char *prefix) {
    for (size_t i = 0; i < weights->count; i++) {
        const Weight *weight = &weights->table[i];
        char name[MAX_NAME];
        print_name(name, sizeof name, "%s%s", prefix, weight->name);
        float *copy = floats(weight->size);
        memcpy(copy, weight->values, weight->size * sizeof(float));
        add(answer, name, weight->rank, weight->shape, copy);
    }
}

static void answer_loss(Answer *answer, const Question *q, const Weights *p, const Pass *pass, const File *inputs,
                        int with_gradients) {
    const Tensor *targets = token_ids(q, inputs, "targets");
    if (elements(2, targets->shape) != pass->N) fail("%s: there are not as many targets as tokens", inputs->path);
    float *dlogits = floats(pass->N * q->vocab_size), *loss = floats(1);
    loss[0] = (float)cross_entropy(dlogits, pass, targets->values, q->vocab_size);
    add(answer, "loss", 0, NULL, loss);
    if (!with_gradients) return;
    const Weights grad = backward(q, p, pass, dlogits);
    add_weights(answer, &grad, "");
}

static void answer_updates(Answer *answer, const Question *q, Weights *p, const File *inputs) {
    const Tensor *rates = find(inputs, "rates", "F64", 1);
    if (rates->shape[0] != q->updates) fail("%s: there are not %lu rates", inputs->path, (unsigned long)q->updates);
    Weights m = zero_weights(q), v = zero_weights(q);
    for (size_t t = 1; t <= q->updates; t++) {
        char prefix[32];
        print_name(prefix, sizeof prefix, "%lu.", (unsigned long)t);
        const Weights grad = load_weights(q, inputs, prefix);
        adamw_update(q, p, &m, &v, &grad, ((const double *)rates->values)[t - 1], t);
        add_weights(answer, p, prefix);
    }
}

/* Returns 0 for an operation that this program does not have. */
static int answer_question(Answer *answer, const Question *q, const File *weights, const File *inputs) {
    Weights p = load_weights(q, weights, "");
    answer->capacity = (1 + q->updates) * (1 + p.count);
    answer->tensors = zeroed(answer->capacity, sizeof(Named));
    const int logits = !strcmp(q->operation, "logits"), taps = !strcmp(q->operation, "taps");
    const int loss = !strcmp(q->operation, "loss"), gradients = !strcmp(q->operation, "loss_and_gradients");
    if (!strcmp(q->operation, "adamw_steps")) answer_updates(answer, q, &p, inputs);
    else if (logits || taps || loss || gradients) {
        const Pass pass = forward(q, &p, token_ids(q, inputs, "tokens"));
        const size_t shape[] = {pass.B, pass.T, q->vocab_size};
        if (logits) add(answer, "logits", 3, shape, pass.logits);
        else if (taps) answer_taps(answer, q, &pass);
        else answer_loss(answer, q, &p, &pass, inputs, gradients);
    } else return 0;
    return 1;
}

static const char *path_of(const char *folder, const char *name, const char *suffix) {
    char *path = zeroed(MAX_PATH_LENGTH, 1);
    print_name(path, MAX_PATH_LENGTH, "%s/%s%s", folder, name, suffix);
    return path;
}

int main(int argc, char **argv) {
    if (argc != 3) fail("usage: gpt2 VECTORS OUTPUTS");
    const char *list = path_of(argv[1], "questions.txt", "");
    FILE *questions = fopen(list, "r");
    if (!questions) fail("cannot open %s", list);
    char line[MAX_LINE];
    int answered = 0, skipped = 0;
    while (fgets(line, sizeof line, questions)) {
        const Question q = parse_question(line);
        const File weights = read_safetensors(path_of(argv[1], q.weights, ""));
        const File inputs = read_safetensors(path_of(argv[1], q.inputs, ""));
        Answer answer = {0, 0, NULL};
        if (answer_question(&answer, &q, &weights, &inputs)) {
            write_safetensors(path_of(argv[2], q.name, ".safetensors"), &answer);
            answered++;
        } else skipped++;
        free_all();
    }
    fclose(questions);
    free_all();
    printf("%d questions answered, %d skipped\n", answered, skipped);
    return 0;
}
