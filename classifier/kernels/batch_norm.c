/* Batch normalization of a matrix (rows, channels): sums are chains over rows, in float64; the rest is elementwise. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>

/* Mean and variance (divided by the number of rows) of each channel. Returns 0, or 1 if memory ran out. */
int statistics(const ptrdiff_t *shape, const float *x, float *mean, float *variance) {
  const ptrdiff_t rows = shape[0], channels = shape[1];
  double *sums = calloc((size_t)(2 * channels), sizeof *sums), *squares = sums + channels;
  if (!sums) return 1;
  for (ptrdiff_t row = 0; row < rows; row++)
    for (ptrdiff_t c = 0; c < channels; c++) sums[c] += x[row * channels + c];
  for (ptrdiff_t c = 0; c < channels; c++) sums[c] /= (double)rows;
  for (ptrdiff_t row = 0; row < rows; row++)
    for (ptrdiff_t c = 0; c < channels; c++) {
      const double distance = x[row * channels + c] - sums[c];
      squares[c] += distance * distance;
    }
  for (ptrdiff_t c = 0; c < channels; c++) mean[c] = (float)sums[c], variance[c] = (float)(squares[c] / (double)rows);
  free(sums);
  return 0;
}

/* y = (x - mean) / sqrt(variance + epsilon) * weight + bias. */
int normalize(const ptrdiff_t *shape, const float *x, const float *mean, const float *variance, const float *epsilon,
              const float *weight, const float *bias, float *y) {
  const ptrdiff_t rows = shape[0], channels = shape[1];
  float *scale = malloc((size_t)(2 * channels) * sizeof *scale), *shift = scale + channels;
  if (!scale) return 1;
  for (ptrdiff_t c = 0; c < channels; c++) {
    const double factor = weight[c] / sqrt((double)variance[c] + *epsilon);
    scale[c] = (float)factor, shift[c] = (float)(bias[c] - mean[c] * factor);
  }
  for (ptrdiff_t row = 0; row < rows; row++)
    for (ptrdiff_t c = 0; c < channels; c++)
      y[row * channels + c] = __builtin_fmaf(x[row * channels + c], scale[c], shift[c]);
  free(scale);
  return 0;
}

/* The gradients of x, weight and bias, where mean and variance are those of x. */
int normalize_gradient(const ptrdiff_t *shape, const float *dy, const float *x, const float *mean,
                       const float *variance, const float *epsilon, const float *weight, float *dx, float *dweight,
                       float *dbias) {
  const ptrdiff_t rows = shape[0], channels = shape[1];
  double *sums = calloc((size_t)(2 * channels), sizeof *sums), *products = sums + channels;
  float *scale = malloc((size_t)(3 * channels) * sizeof *scale), *slope = scale + channels, *shift = slope + channels;
  if (!sums || !scale) return free(sums), free(scale), 1;
  for (ptrdiff_t row = 0; row < rows; row++)
    for (ptrdiff_t c = 0; c < channels; c++) {
      const double gradient = dy[row * channels + c];
      sums[c] += gradient;
      products[c] += gradient * (x[row * channels + c] - mean[c]);
    }
  for (ptrdiff_t c = 0; c < channels; c++) {
    const double inverse = 1 / sqrt((double)variance[c] + *epsilon), factor = inverse * weight[c];
    dweight[c] = (float)(products[c] * inverse), dbias[c] = (float)sums[c];
    scale[c] = (float)factor, shift[c] = (float)(-factor * sums[c] / (double)rows);
    slope[c] = (float)(-factor * inverse * inverse * products[c] / (double)rows);
  }
  for (ptrdiff_t row = 0; row < rows; row++)
    for (ptrdiff_t c = 0; c < channels; c++) {
      const ptrdiff_t i = row * channels + c;
      dx[i] = __builtin_fmaf(dy[i], scale[c], __builtin_fmaf(x[i] - mean[c], slope[c], shift[c]));
    }
  free(sums), free(scale);
  return 0;
}
