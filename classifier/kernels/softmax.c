/* Softmax and its logarithm in float64, rounded once: exp and log of additions and multiplications alone.
 *
 * The C libraries of two systems may differ in the last bit of exp and log. IEEE 754 defines all that is used here, so
 * all processors agree. The errors are below 1e-15, relative to the result.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LN2_HIGH 0x1.62e42fefa0000p-1 /* without its last bits, so that a product with an integer is exact */
#define LN2_LOW 0x1.cf79abc9e3b39p-40

/* e^x for x <= 0: 2^k e^r with |r| <= ln(2) / 2, by the Taylor series of e^r. */
static double exponential(double x) {
  if (!(x > -700)) return x <= -700 ? 0 : x; /* far below the smallest float32; or NaN */
  const int64_t k = (int64_t)(x / LN2_HIGH - 0.5);
  const double r = (x - (double)k * LN2_HIGH) - (double)k * LN2_LOW;
  double sum = 1;
  for (int n = 14; n > 0; n--) sum = 1 + sum * r * (1.0 / n);
  const int64_t bits = (k + 1023) << 52; /* of 2^k */
  double power;
  memcpy(&power, &bits, sizeof power);
  return sum * power;
}

/* ln(x) for 1 <= x: k ln(2) + ln(m) with m from 1/sqrt(2) to sqrt(2), by ln(m) = 2 artanh((m - 1) / (m + 1)). */
static double logarithm(double x) {
  int64_t k = 0;
  for (; x > 1.4142135623730951; k++) x /= 2;
  const double f = (x - 1) / (x + 1), square = f * f;
  double sum = 0;
  for (int n = 12; n >= 0; n--) sum = sum * square + 1.0 / (2 * n + 1);
  return (double)k * LN2_HIGH + ((double)k * LN2_LOW + 2 * f * sum);
}

/* p = softmax of the rows of x and log_p its logarithm, all (shape[0], shape[1]). Returns 0. */
int softmax(const ptrdiff_t *shape, const float *x, float *log_p, float *p) {
  const ptrdiff_t columns = shape[1];
  for (ptrdiff_t row = 0; row < shape[0]; row++, x += columns, log_p += columns, p += columns) {
    double largest = x[0], total = 0;
    for (ptrdiff_t i = 1; i < columns; i++)
      if (x[i] > largest || isnan(x[i])) largest = x[i];
    for (ptrdiff_t i = 0; i < columns; i++) total += exponential(x[i] - largest);
    const double log_total = isfinite(total) ? logarithm(total) : total;
    for (ptrdiff_t i = 0; i < columns; i++) {
      log_p[i] = (float)(x[i] - largest - log_total);
      p[i] = (float)(exponential(x[i] - largest) / total);
    }
  }
  return 0;
}
