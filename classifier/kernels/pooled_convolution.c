/* A convolution with the 2x2 max pooling behind it. Three of four terms of its gradients are zero.
 *
 * The bits are those of convolution.c and then pooling: fma(a, 0, acc) is acc, so the chains of the gradients leave
 * such terms out. (They differ in the sign of a zero, and where an input is infinite or NaN.) The maps before
 * pooling are made for some images at a time, which the processor's cache holds.
 */
#include <stdlib.h>

#include "kernels.h"

#define MAPS (1 << 17) /* floats of such maps, about */
#define IMAGES 36      /* whose maps they are, at most */
#define TERMS 20       /* pixels of some images whose terms are listed at a time, about */
#define ACROSS 12      /* vectors of sums at a time, at most */
#define SLICE 6        /* vectors of a wide line of weights at a time */
#define LINES 3        /* of a kernel that share them, where a line has few */

/* A part of the gradient, and where the inputs begin that it is multiplied by. */
typedef struct { float value; unsigned place; } Term;

static void *allocate(Size count, size_t size) { return aligned_alloc(64, ((size_t)count * size + 63) / 64 * 64); }
/* Before pooling, less an odd row and column, which it leaves out. */
static Size map_rows(const Shape *s) { return output_rows(s) / 2 * 2; }
static Size map_columns(const Shape *s) { return output_columns(s) / 2 * 2; }
static Size map_size(const Shape *s) { return map_rows(s) * map_columns(s) * s->outputs; }

/* y = the largest of each 2x2 window of one image's maps, the first of equal ones; place: which of 0 to 3. NaN counts
 * as larger than all. */
static void pool(const Shape *s, const float *restrict maps, float *restrict y, unsigned char *restrict places) {
  const Size O = s->outputs, line = map_columns(s) * O;
  for (Size row = 0; row < map_rows(s); row += 2)
    for (Size column = 0; column < map_columns(s); column += 2, y += O, places += O) {
      const float *a = maps + row * line + column * O, *b = a + O, *c = a + line, *d = c + O;
      for (Size o = 0; o < O; o++) {
        float best = a[o];
        int place = 0;
        place = b[o] > best || b[o] != b[o] ? 1 : place, best = place == 1 ? b[o] : best;
        place = c[o] > best || c[o] != c[o] ? 2 : place, best = place == 2 ? c[o] : best;
        place = d[o] > best || d[o] != d[o] ? 3 : place, best = place == 3 ? d[o] : best;
        y[o] = best, places[o] = (unsigned char)place;
      }
    }
}

/* y = pooled convolution of x. Returns 0, or 1 if memory ran out, as the others do. */
int pooled_forward(const Shape *s, const float *x, const float *w, float *y, unsigned char *places) {
  const Size map = map_size(s), block = most(1, least(IMAGES, MAPS / most(1, map)));
  float *maps = allocate(block * map, sizeof *maps);
  int failed = !maps;
  for (Size n = 0; n < s->images && !failed; n += block) {
    Shape some = *s;
    some.images = least(block, s->images - n);
    failed = forward_some(&some, map_rows(s), map_columns(s), x + n * s->height * s->width * s->inputs, w, maps);
    for (Size i = 0; i < some.images && !failed; i++, y += map / 4, places += map / 4)
      pool(s, maps + i * map, y, places);
  }
  free(maps);
  return failed;
}

/* sums[line][...] += value * x[line][...] for each term. Where this is inlined lines and vectors are constants, so that
 * each sum has its register. */
static inline __attribute__((always_inline)) void add_terms(const int lines, const int vectors, const Term *terms,
                                                            Size count, const float *x, Size x_line, float *sums,
                                                            Size sums_line) {
  Vector acc[LINES][ACROSS];
  UNROLL for (int i = 0; i < lines; i++)
    UNROLL for (int j = 0; j < vectors; j++) acc[i][j] = *(const Unaligned *)(sums + i * sums_line + j * LANES);
  for (Size k = 0; k < count; k++)
    UNROLL for (int i = 0; i < lines; i++)
      UNROLL for (int j = 0; j < vectors; j++)
        acc[i][j] = FMA(terms[k].value, *(const Unaligned *)(x + terms[k].place + i * x_line + j * LANES), acc[i][j]);
  UNROLL for (int i = 0; i < lines; i++)
    UNROLL for (int j = 0; j < vectors; j++) *(Unaligned *)(sums + i * sums_line + j * LANES) = acc[i][j];
}

#define ONE(n) case n: add_terms(1, n, terms, count, x + first, x_line, sums + first, sums_line); break;
#define SEVERAL(n) case n: add_terms(LINES, n, terms, count, x, x_line, sums, sums_line); break;

/* The same for all lines of a kernel; a line is (kx, input channel), filled up to whole vectors. */
static void add_to_sums(Size lines, Size vectors, const Term *terms, Size count, const float *x, Size x_line,
                        float *sums, Size sums_line) {
  while (lines > 0) {
    const Size some = vectors <= ACROSS / LINES && lines >= LINES ? LINES : 1;
    if (some == LINES)
      switch (vectors) { SEVERAL(1) SEVERAL(2) SEVERAL(3) SEVERAL(4) }
    else
      for (Size first = 0; first < vectors * LANES; first += ACROSS * LANES)
        switch (least(vectors - first / LANES, ACROSS)) { EACH(ONE) }
    lines -= some, x += some * x_line, sums += some * sums_line;
  }
}

/* The terms of each pixel before pooling: the output channels whose largest value it has. */
static void list_channels(const Shape *s, const float *dy, const unsigned char *places, Size place, Term *terms,
                          Size *counts) {
  const Size columns = map_columns(s), O = s->outputs;
  memset(counts, 0, (size_t)(map_rows(s) * columns) * sizeof *counts);
  for (Size row = 0; row < map_rows(s); row += 2)
    for (Size column = 0; column < columns; column += 2)
      for (Size o = 0; o < O; o++, dy++, places++) {
        const Size pixel = (row + *places / 2) * columns + column + *places % 2;
        terms[pixel * O + counts[pixel]++] = (Term){*dy, (unsigned)(o * place)};
      }
}

/* A pixel of dy adds to a square of dx. The order of the pixels is that of the chains: (ky, kx) of the flipped weights.
 * Of wide lines the cache holds a slice of all weights. These are added one by one, from the last, as a pixel of dx
 * meets the first pixels of dy at the end of the kernel. */
int pooled_input_gradient(const Shape *s, const float *dy, const unsigned char *places, const float *w, float *dx) {
  const Size P = s->padding, C = s->inputs, O = s->outputs, used = s->kernel * C, line = in_panels(used);
  const Size columns = map_columns(s), pixels = map_rows(s) * columns, pooled = map_size(s) / 4;
  const Size dx_line = (s->width + 2 * P) * C, image = (s->height + 2 * P) * dx_line + LANES;
  float *weights = allocate(O * s->kernel * line, sizeof *weights), *sums = allocate(image, sizeof *sums);
  Term *terms = allocate(pixels * O + 1, sizeof *terms);
  Size *counts = allocate(pixels + 1, sizeof *counts);
  const int narrow = line <= ACROSS / LINES * LANES;
  const int failed = !weights || !sums || !terms || !counts;
  if (!failed) memset(weights, 0, bytes(O * s->kernel * line));
  for (Size k = 0; k < O * s->kernel && !failed; k++) memcpy(weights + k * line, w + k * used, bytes(used));
  for (Size n = 0; n < s->images && !failed; n++, dy += pooled, places += pooled) {
    list_channels(s, dy, places, s->kernel * line, terms, counts);
    memset(sums, 0, bytes(image));
    for (Size ky = narrow ? 0 : s->kernel - 1; ky >= 0; ky--)
      for (Size first = (line - 1) / (SLICE * LANES) * SLICE * LANES; first >= 0; first -= SLICE * LANES)
        for (Size pixel = 0; pixel < pixels; pixel++)
          add_to_sums(narrow ? s->kernel : 1, least(SLICE, (line - first) / LANES), terms + pixel * O, counts[pixel],
                      weights + ky * line + first, line,
                      sums + (pixel / columns + ky) * dx_line + pixel % columns * C + first, dx_line);
    for (Size y = 0; y < s->height; y++, dx += s->width * C)
      memcpy(dx, sums + (y + P) * dx_line + P * C, bytes(s->width * C));
  }
  free(weights), free(sums), free(terms), free(counts);
  return failed;
}

/* The terms of an output channel in one image, by row and column before pooling; how many there are. */
static Size list_terms(const Shape *s, const float *dy, const unsigned char *places, Size x_line, Size image,
                       Term *terms) {
  const Size columns = map_columns(s) / 2, O = s->outputs;
  Size found = 0;
  for (Size row = 0; row < map_rows(s); row += 2, dy += columns * O, places += columns * O)
    for (int below = 0; below < 2; below++)
      for (Size column = 0; column < columns; column++) {
        const int place = places[column * O];
        const Size inputs = image + (row + below) * x_line + (2 * column + place % 2) * s->inputs;
        terms[found] = (Term){dy[column * O], (unsigned)inputs};
        found += place / 2 == below;
      }
  return found;
}

int pooled_weight_gradient(const Shape *s, const float *x, const float *dy, const unsigned char *places, float *dw) {
  const Size P = s->padding, C = s->inputs, O = s->outputs, used = s->kernel * C, sums_line = in_panels(used);
  const Size x_line = (s->width + 2 * P) * C, image = (s->height + 2 * P) * x_line, pooled = map_size(s) / 4;
  const Size block = most(1, TERMS * O / most(1, pooled)), kernels = O * s->kernel;
  float *padded = allocate(block * image + LANES, sizeof *padded), *sums = allocate(kernels * sums_line, sizeof *sums);
  Term *terms = allocate(block * (pooled / O) + 1, sizeof *terms);
  const int failed = !padded || !sums || !terms;
  if (!failed) memset(padded, 0, bytes(block * image + LANES)), memset(sums, 0, bytes(kernels * sums_line));
  for (Size n = 0; n < s->images && !failed; n += block) {
    const Size count = least(block, s->images - n);
    for (Size i = 0; i < count; i++)
      for (Size y = 0; y < s->height; y++)
        memcpy(padded + i * image + (y + P) * x_line + P * C, x + ((n + i) * s->height + y) * s->width * C,
               bytes(s->width * C));
    for (Size o = 0; o < O; o++) {
      Size found = 0;
      for (Size i = 0; i < count; i++) {
        const Size at = (n + i) * pooled + o;
        found += list_terms(s, dy + at, places + at, x_line, i * image, terms + found);
      }
      add_to_sums(s->kernel, sums_line / LANES, terms, found, padded, x_line, sums + o * s->kernel * sums_line,
                  sums_line);
    }
  }
  for (Size k = 0; k < kernels && !failed; k++) memcpy(dw + k * used, sums + k * sums_line, bytes(used));
  free(padded), free(sums), free(terms);
  return failed;
}
