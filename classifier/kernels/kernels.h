/* What the convolutions share: vectors of floats and their fused multiply-add, by instruction set, and shapes. */
#pragma once
#include <stddef.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#define FMA(s, v, acc) _mm512_fmadd_ps(_mm512_set1_ps(s), v, acc)
#define SUPPORTED __builtin_cpu_supports("avx512f")
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
#define FMA(s, v, acc) _mm256_fmadd_ps(_mm256_set1_ps(s), v, acc)
#define SUPPORTED (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#elif defined(__ARM_NEON) && !defined(SCALAR)
#include <arm_neon.h>
#define LANES 4
#define FMA(s, v, acc) vfmaq_n_f32(acc, v, s)
#define SUPPORTED 1
#else /* any processor: the C library's fma is exact even where it is no instruction */
#define LANES 1
#define FMA(s, v, acc) ((Vector){__builtin_fmaf(s, (v)[0], (acc)[0])})
#define SUPPORTED 1
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Code for each number of rows or vectors. */
#define EACH(TILE) TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)

typedef ptrdiff_t Size;
typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef Vector Unaligned __attribute__((aligned(4), may_alias));

/* inputs and outputs: channels; kernel: its side. */
typedef struct { Size images, height, width, inputs, outputs, kernel, padding; } Shape;

static inline Size least(Size a, Size b) { return a < b ? a : b; }
static inline Size most(Size a, Size b) { return a > b ? a : b; }
static inline Size bytes(Size floats) { return floats * (Size)sizeof(float); }
static inline Size output_rows(const Shape *s) { return s->height + 2 * s->padding - s->kernel + 1; }
static inline Size output_columns(const Shape *s) { return s->width + 2 * s->padding - s->kernel + 1; }
static inline Size in_panels(Size columns) { return (columns + LANES - 1) / LANES * LANES; }

/* In convolution.c; returns 0, or 1 if memory ran out. */
int forward_some(const Shape *s, Size rows, Size columns, const float *x, const float *w, float *y);
