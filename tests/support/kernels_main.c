/* Prints a digest of each operation on inputs that are exact on every machine: the same lines for all instructions. */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int supported(void);
int matrix_product(const ptrdiff_t *sizes, const float *a, const float *b, float *c);
int statistics(const ptrdiff_t *shape, const float *x, float *mean, float *variance);
int normalize(const ptrdiff_t *shape, const float *x, const float *mean, const float *variance, const float *epsilon,
              const float *weight, const float *bias, float *y);
int normalize_gradient(const ptrdiff_t *shape, const float *dy, const float *x, const float *mean,
                       const float *variance, const float *epsilon, const float *weight, float *dx, float *dweight,
                       float *dbias);
int adam(const ptrdiff_t *shape, const float *options, const float *g, float *p, float *m, float *v);
int softmax(const ptrdiff_t *sizes, const float *x, float *log_p, float *p);
int forward(const ptrdiff_t *shape, const float *x, const float *w, const float *bias, float *y);
int input_gradient(const ptrdiff_t *shape, const float *dy, const float *w, float *dx);
int weight_gradient(const ptrdiff_t *shape, const float *x, const float *dy, float *dw, float *dbias);
int pooled_forward(const ptrdiff_t *shape, const float *x, const float *w, float *y, unsigned char *places);
int pooled_input_gradient(const ptrdiff_t *shape, const float *dy, const unsigned char *places, const float *w,
                          float *dx);
int pooled_weight_gradient(const ptrdiff_t *shape, const float *x, const float *dy, const unsigned char *places,
                           float *dw);

static uint64_t state = 88172645463325252u;

/* Values of which the memory checker sees every access beyond them. */
static float *draw(ptrdiff_t count) {
  float *values = malloc((size_t)count * sizeof(float));
  for (ptrdiff_t i = 0; i < count; i++) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    values[i] = (float)((int)(state >> 48) - 32768) / 16384;
  }
  return values;
}

static void show(const char *name, const float *values, ptrdiff_t count) {
  uint64_t digest = 14695981039346656037u;
  const unsigned char *content = (const unsigned char *)values;
  for (ptrdiff_t i = 0; i < count * (ptrdiff_t)sizeof(float); i++) digest = (digest ^ content[i]) * 1099511628211u;
  printf(" %s %016" PRIx64, name, digest);
}

/* The pooled convolution; that its bits are those of a convolution and PyTorch's pooling is tested elsewhere. */
static int show_pooled(const ptrdiff_t *s, const float *x, const float *w) {
  const ptrdiff_t rows = (s[1] + 2 * s[6] - s[5] + 1) / 2, columns = (s[2] + 2 * s[6] - s[5] + 1) / 2;
  const ptrdiff_t count = s[0] * rows * columns * s[4], weights = s[4] * s[5] * s[5] * s[3];
  const ptrdiff_t inputs = s[0] * s[1] * s[2] * s[3];
  float *y = draw(count), *dy = draw(count), *dx = draw(inputs), *dw = draw(weights);
  unsigned char *places = malloc((size_t)count);
  if (pooled_forward(s, x, w, y, places) || pooled_input_gradient(s, dy, places, w, dx)) return 1;
  if (pooled_weight_gradient(s, x, dy, places, dw)) return 1;
  show("pooled", y, count), show("inputs", dx, inputs), show("weights", dw, weights);
  puts("");
  free(y), free(dy), free(dx), free(dw), free(places);
  return 0;
}

int main(void) {
  /* images, height, width, inputs, outputs, kernel, padding */
  static const ptrdiff_t shapes[][7] = {
    {2, 28, 28, 1, 8, 2, 0}, {3, 27, 27, 8, 16, 3, 1}, {2, 13, 13, 16, 64, 3, 1}, {5, 6, 6, 64, 96, 3, 1},
    {40, 3, 3, 96, 96, 3, 0}, {3, 28, 28, 1, 6, 5, 0}, {2, 12, 12, 6, 16, 5, 0}, {1, 9, 14, 3, 5, 3, 1},
    {7, 2, 2, 10, 33, 3, 1}, {4, 10, 3, 17, 40, 2, 0}, {1, 1, 1, 1, 1, 3, 1}, {38, 1, 20, 2, 7, 3, 1},
  };
  if (!supported()) return 77;
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    const ptrdiff_t *s = shapes[i], pixels = s[0] * (s[1] + 2 * s[6] - s[5] + 1) * (s[2] + 2 * s[6] - s[5] + 1);
    const ptrdiff_t inputs = s[0] * s[1] * s[2] * s[3], outputs = pixels * s[4], weights = s[4] * s[5] * s[5] * s[3];
    float *x = draw(inputs), *w = draw(weights), *bias = draw(s[4]), *dy = draw(outputs);
    float *y = draw(outputs), *dx = draw(inputs), *dw = draw(weights), *dbias = draw(s[4]);
    if (forward(s, x, w, NULL, y)) return 1;
    show("forward", y, outputs);
    if (forward(s, x, w, bias, y) || input_gradient(s, dy, w, dx) || weight_gradient(s, x, dy, dw, dbias)) return 1;
    show("with bias", y, outputs), show("inputs", dx, inputs), show("weights", dw, weights), show("bias", dbias, s[4]);
    puts("");
    if (s[1] > s[5] && show_pooled(s, x, w)) return 1;
    /* rows, inner, columns, strides of a and b; the second matrix transposed */
    const ptrdiff_t sizes[] = {s[0], inputs / s[0], s[4], inputs / s[0], 1, 1, inputs / s[0]}, count = s[0] * s[4];
    float *b = draw(inputs / s[0] * s[4]), *c = draw(count), *log_p = draw(count), *p = draw(count);
    if (matrix_product(sizes, x, b, c) || softmax((ptrdiff_t[]){s[0], s[4]}, c, log_p, p)) return 1;
    show("product", c, count), show("log softmax", log_p, count), show("softmax", p, count);
    puts("");
    free(b), free(c), free(log_p), free(p);
    const ptrdiff_t shape[] = {pixels, s[4]};
    const float epsilon = 1e-5f, options[] = {0.01f, 0.9f, 0.999f, 2, 1e-8f, 0.01f, 0.99f};
    float *mean = draw(s[4]), *variance = draw(s[4]), *first = draw(outputs), *second = draw(outputs);
    if (statistics(shape, y, mean, variance)) return 1;
    show("mean", mean, s[4]), show("variance", variance, s[4]);
    if (normalize_gradient(shape, dy, y, mean, variance, &epsilon, bias, first, dbias, second)) return 1;
    show("of maps", first, outputs), show("of weight", dbias, s[4]), show("of bias", second, s[4]);
    if (normalize(shape, y, mean, variance, &epsilon, bias, dbias, first)) return 1;
    show("normalized", first, outputs);
    for (ptrdiff_t k = 0; k < outputs; k++) second[k] *= second[k]; /* averages of squares */
    if (adam(&outputs, options, dy, y, first, second)) return 1;
    show("adam", y, outputs), show("average", first, outputs), show("of squares", second, outputs);
    puts("");
    free(mean), free(variance), free(first), free(second);
    free(x), free(w), free(bias), free(dy), free(y), free(dx), free(dw), free(dbias);
  }
  return 0;
}
