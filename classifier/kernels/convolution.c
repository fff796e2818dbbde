/* Convolutions and matrix products whose bits depend on no vector width, no tile and no thread.
 *
 * The rule: every output is ONE chain  acc = fma(a_k, b_k, acc)  from 0, over k in a fixed order:
 *
 *   forward                   (ky, kx, input channel)
 *   gradient of the inputs    (ky, kx, output channel) of the flipped weights
 *   gradient of the weights   (image, y, x)
 *   matrix product            (column of a, row of b)
 *
 * Vectors and tiles go across outputs only, never along k. IEEE 754 defines fma to the last bit, so all processors
 * agree; most of oneDNN's kernels for AVX2 are the same chains. No -ffast-math: compilers must not change the order.
 *
 * Layout: images (n, y, x, channel), weights (output channel, ky, kx, input channel): PyTorch's channels_last. The
 * stride is 1. build.py compiles this file once for each instruction set.
 */
#include <stdlib.h>

#include "kernels.h"

/* Speed alone depends on these. A tile's sums fit the registers. */
#define VECTORS (LANES == 4 ? 4 : 2)     /* of a wide panel; a narrow one has one */
#define WIDE_ROWS (LANES == 16 ? 12 : 6) /* of a tile on a wide panel, at most */
#define NARROW_ROWS 12
#define SMALL_MAP 8 /* columns; on smaller maps the rows of a product are images, on others pixels */
#define IMAGES 36   /* rows of such a product, at most */

typedef struct { Size rows, inner, columns, a_row, a_inner, b_inner, b_column; } Factors;

/* c[row][column] = sum over k of a[row][k] * b[k][column]. k is (outer, inner), b a panel: rows of `width` values. */
typedef struct {
  Size rows, columns, outer, inner, a_row, a_outer, a_inner, b_outer, width, c_row;
  const float *a, *b;
  float *c;
  int goes_on; /* the chains start from the values of c */
} Product;

static Size products(const Shape *s) { return s->kernel * s->kernel * s->inputs; }
static Size panel_width(Size columns) { return columns % (VECTORS * LANES) ? LANES : VECTORS * LANES; }

/* A matrix (rows, columns) with these strides as panels; the last one is filled up with zeros. */
static void pack(const float *in, Size rows, Size columns, Size next_row, Size next, float *out) {
  const Size width = panel_width(columns);
  for (Size first = 0; first < columns; first += width)
    for (Size row = 0; row < rows; row++)
      for (Size column = first; column < first + width; column++)
        *out++ = column < columns ? in[row * next_row + column * next] : 0;
}

/* A product of few rows. Where this is inlined rows and vectors are constants, so that each sum has its register. */
static inline __attribute__((always_inline)) void tile(const int rows, const int vectors, const Product *p) {
  Vector sums[NARROW_ROWS][VECTORS], b[VECTORS];
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < vectors; j++)
      if (p->goes_on) sums[i][j] = *(const Unaligned *)(p->c + i * p->c_row + j * LANES);
      else sums[i][j] = (Vector){0};
  for (Size outer = 0; outer < p->outer; outer++) {
    const float *left = p->a + outer * p->a_outer, *right = p->b + outer * p->b_outer;
    for (Size k = 0; k < p->inner; k++, left += p->a_inner, right += vectors * LANES) {
      UNROLL for (int j = 0; j < vectors; j++) b[j] = *(const Unaligned *)(right + j * LANES);
      UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++) sums[i][j] = FMA(left[i * p->a_row], b[j], sums[i][j]);
    }
  }
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < vectors; j++) *(Unaligned *)(p->c + i * p->c_row + j * LANES) = sums[i][j];
}

#define NARROW(n) case n: tile(n, 1, p); break;
#define WIDE(n) case n: tile(n < WIDE_ROWS ? n : WIDE_ROWS, VECTORS, p); break;

static void multiply_tile(const Product *p) {
  if (p->width == LANES)
    switch (p->rows) { EACH(NARROW) }
  else
    switch (p->rows) { EACH(WIDE) }
}

/* A product in tiles of about equal height. */
static void multiply(Product p) {
  const Size rows = p.rows, highest = p.width == LANES ? NARROW_ROWS : WIDE_ROWS;
  const Size tiles = (rows + highest - 1) / highest;
  if (p.inner == 1 && p.b_outer == p.width) p.inner = p.outer, p.a_inner = p.a_outer, p.outer = 1; /* one loop */
  for (Size number = 0; number < tiles; number++, p.a += p.rows * p.a_row, p.c += p.rows * p.c_row) {
    p.rows = rows / tiles + (number < rows % tiles);
    if (p.columns == p.width) {
      multiply_tile(&p);
      continue;
    }
    float whole[NARROW_ROWS * LANES]; /* the panel, a narrow one, has more columns than c; these do not go on */
    Product q = p;
    q.c = whole, q.c_row = p.width;
    multiply_tile(&q);
    for (Size i = 0; i < p.rows; i++) memcpy(p.c + i * p.c_row, whole + i * p.width, bytes(p.columns));
  }
}

/* The taps of the output at a place that lie inside of the map, up to end_tap; or the outputs of the tap at a place. */
static Size first_tap(Size place, Size padding) { return most(0, padding - place); }
static Size end_tap(Size place, Size padding, Size extent, Size taps) { return least(taps, extent + padding - place); }

/* y = convolution of x, the weights as panels. The rows of a product are outputs with the same taps inside of the map:
 * most pixels of a row, or of a column at the edge, or on small maps a pixel of many images. */
static void convolve(const Shape *s, Size rows, Size columns, const float *x, const float *panels, float *y) {
  const Size side = s->kernel, P = s->padding, C = s->inputs, O = s->outputs, width = panel_width(O);
  const Size line = s->width * C, image = s->height * line;
  const int small = least(rows, columns) < most(SMALL_MAP, 2 * P + 1);
  const Size block = small ? IMAGES : 1;
  for (Size n = 0; n < s->images; n += block, x += block * image, y += block * rows * columns * O)
    for (Size o = 0; o < O; o += width)
      for (Size row = 0; row < rows; row++)
        for (Size column = 0, step = 1; column < columns; column += step) {
          const int along_row = !small && column == P, along_column = !small && !along_row && row == P;
          const Size top = first_tap(row, P), bottom = end_tap(row, P, s->height, side);
          const Size left = first_tap(column, P), right = end_tap(column, P, s->width, side);
          step = along_row ? columns - 2 * P : 1;
          if (!small && !along_row && row > P && row < rows - P) continue; /* part of the product along its column */
          multiply((Product){
            .rows = small ? least(block, s->images - n) : along_column ? rows - 2 * P : step,
            .columns = least(width, O - o), .outer = bottom - top, .inner = (right - left) * C,
            .a = x + (row + top - P) * line + (column + left - P) * C,
            .a_row = small ? image : along_row ? C : line, .a_outer = line, .a_inner = 1,
            .b = panels + (o * side * side + (top * side + left) * width) * C, .b_outer = side * C * width,
            .width = width, .c = y + (row * columns + column) * O + o,
            .c_row = small ? rows * columns * O : along_row ? O : columns * O});
        }
}

/* sums (ky, kx, input channel, output channel); the panels are room for dy. The sum of a product is over an image, or
 * over many if each has one row of pixels. */
static void correlate(const Shape *s, const float *x, const float *dy, float *sums, float *panels) {
  const Size P = s->padding, C = s->inputs, O = s->outputs, rows = output_rows(s), columns = output_columns(s);
  const Size width = panel_width(O), line = s->width * C, block = rows == 1 ? IMAGES : 1;
  for (Size n = 0; n < s->images; n += block, x += block * s->height * line, dy += block * rows * columns * O) {
    const Size count = least(block, s->images - n), pixels = count * rows * columns;
    pack(dy, pixels, O, O, 1, panels);
    for (Size o = 0; o < O; o += width)
      for (Size tap = 0; tap < s->kernel * s->kernel; tap++) {
        const Size ky = tap / s->kernel, top = first_tap(ky, P), bottom = end_tap(ky, P, s->height, rows);
        const Size kx = tap % s->kernel, left = first_tap(kx, P), right = end_tap(kx, P, s->width, columns);
        multiply((Product){
          .rows = C, .columns = width, .outer = most(0, bottom - top) * count, .inner = right - left,
          .a = x + (top + ky - P) * line + (left + kx - P) * C, .a_row = 1,
          .a_outer = rows == 1 ? s->height * line : line, .a_inner = C,
          .b = panels + o * pixels + (top * columns + left) * width, .b_outer = columns * width, .width = width,
          .c = sums + tap * C * in_panels(O) + o, .c_row = in_panels(O), .goes_on = n > 0});
      }
  }
}

int supported(void) { return SUPPORTED; }

/* c = a b: a (rows, inner), b (inner, columns). Returns 0, or 1 if memory ran out, as the others do. */
int matrix_product(const Factors *f, const float *a, const float *b, float *c) {
  const Size width = panel_width(f->columns);
  float *panels = malloc(bytes(f->inner * in_panels(f->columns)));
  if (!panels) return 1;
  pack(b, f->inner, f->columns, f->b_inner, f->b_column, panels);
  for (Size first = 0; first < f->columns; first += width)
    multiply((Product){.rows = f->rows, .columns = least(width, f->columns - first), .outer = 1, .inner = f->inner,
                       .a = a, .a_row = f->a_row, .a_inner = f->a_inner, .b = panels + first * f->inner,
                       .width = width, .c = c + first, .c_row = f->columns});
  free(panels);
  return 0;
}

/* The first rows and columns of forward(). */
int forward_some(const Shape *s, Size rows, Size columns, const float *x, const float *w, float *y) {
  float *panels = malloc(bytes(products(s) * in_panels(s->outputs)));
  if (!panels) return 1;
  pack(w, products(s), s->outputs, 1, products(s), panels);
  convolve(s, rows, columns, x, panels, y);
  free(panels);
  return 0;
}

/* y = convolution of x, and then plus bias, unless that is NULL. */
int forward(const Shape *s, const float *x, const float *w, const float *bias, float *y) {
  const Size pixels = s->images * output_rows(s) * output_columns(s);
  const int failed = forward_some(s, output_rows(s), output_columns(s), x, w, y);
  for (Size k = 0; k < pixels && bias && !failed; k++)
    for (Size o = 0; o < s->outputs; o++) y[k * s->outputs + o] += bias[o];
  return failed;
}

/* dx = convolution of dy with the flipped weights. */
int input_gradient(const Shape *s, const float *dy, const float *w, float *dx) {
  const Shape back = {s->images, output_rows(s), output_columns(s), s->outputs, s->inputs, s->kernel,
                      s->kernel - 1 - s->padding};
  const Size taps = s->kernel * s->kernel, packed = products(&back) * in_panels(back.outputs);
  float *panels = malloc(bytes(packed + products(&back) * back.outputs)), *flipped = panels + packed;
  if (!panels) return 1;
  for (Size tap = 0; tap < taps; tap++)
    for (Size o = 0; o < s->outputs; o++, flipped += s->inputs)
      memcpy(flipped, w + ((o + 1) * taps - 1 - tap) * s->inputs, bytes(s->inputs));
  pack(panels + packed, products(&back), back.outputs, back.outputs, 1, panels);
  convolve(&back, s->height, s->width, dy, panels, dx);
  free(panels);
  return 0;
}

/* The gradients of weights and bias. */
int weight_gradient(const Shape *s, const float *x, const float *dy, float *dw, float *dbias) {
  const Size all = in_panels(s->outputs), pixels = output_rows(s) * output_columns(s);
  float *sums = malloc(bytes((products(s) + (output_rows(s) == 1 ? IMAGES : 1) * pixels) * all));
  if (!sums) return 1;
  correlate(s, x, dy, sums, sums + products(s) * all);
  for (Size o = 0; o < s->outputs; o++)
    for (Size k = 0; k < products(s); k++) *dw++ = sums[k * all + o];
  memset(dbias, 0, bytes(s->outputs));
  for (Size k = 0; k < s->images * pixels; k++)
    for (Size o = 0; o < s->outputs; o++) dbias[o] += dy[k * s->outputs + o];
  free(sums);
  return 0;
}
