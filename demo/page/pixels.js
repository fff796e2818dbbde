// From a picture to the bytes that the model takes, by the same arithmetic as `python -m tools.predict`: Pillow's
// grayscale and Pillow's Lanczos resampling. A canvas could shrink the picture in one line, but each browser does it in
// its own way, and a photograph on 28 x 28 pixels may then get another class.

/**
 * The pixels of an image, turned as its EXIF data say, on black where it is transparent.
 * What may still differ from Pillow by a step or two of 255: half transparent pixels, JPEG's colors, 16-bit images.
 * @param {Blob | HTMLImageElement} image a file, or an element of the page
 * @returns {Promise<ImageData>}
 * @throws {DOMException} the browser cannot read it as a picture
 */
export async function decode(image) {
  if (image instanceof HTMLImageElement) await image.decode(); // it may still be on its way
  const bitmap = await createImageBitmap(image, { colorSpaceConversion: "none" }); // Pillow ignores profiles too
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true }); // no alpha: black below
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

/**
 * A picture in the model's size and colors.
 * @param {ImageData} picture
 * @param {{channels: number, height: number, width: number}} model
 * @param {boolean} invert for dark things on a light background
 * @returns {Uint8Array} (channels, height, width)
 */
export function prepare(picture, model, invert) {
  const { height, width } = picture;
  const pixels = new Uint8Array(model.channels * model.height * model.width);
  // Which direction comes first changes some values by one. This is what Pillow 13 was seen to do.
  const tall = height > model.height && height - model.height > 2 * (width - model.width);
  planes(picture, model.channels).forEach((plane, channel) => {
    const small = tall
      ? resample(resample(plane, width, height, model.height, false), model.height, width, model.width, true)
      : resample(resample(plane, height, width, model.width, true), model.width, height, model.height, false);
    pixels.set(small, channel * small.length);
  });
  return invert ? pixels.map((value) => 255 - value) : pixels;
}

/**
 * Whether the background is light, by the rule of classifier/export/background.py: the mean of the outermost ring.
 * @param {Uint8Array} pixels (channels, height, width)
 * @param {{height: number, width: number}} model
 */
export function isLight(pixels, { height, width }) {
  const ring = pixels.filter((_, index) => {
    const x = index % width, y = Math.floor(index / width) % height;
    return x === 0 || y === 0 || x === width - 1 || y === height - 1;
  });
  return ring.reduce((sum, value) => sum + value, 0) / ring.length > 127.5;
}

/** Red, green and blue, or one plane of greys. The weights are ITU-R 601's, in Pillow's whole numbers. */
function planes({ data }, channels) {
  const result = Array.from({ length: channels }, () => new Uint8Array(data.length / 4));
  for (let pixel = 0, at = 0; at < data.length; pixel++, at += 4) {
    if (channels === 3) for (let color = 0; color < 3; color++) result[color][pixel] = data[at + color];
    else result[0][pixel] = (19595 * data[at] + 38470 * data[at + 1] + 7471 * data[at + 2] + 0x8000) >> 16;
  }
  return result;
}

/**
 * Resample in one direction.
 * Source: Pillow, `Resample.c`: weights in whole numbers of 22 bits, 8-bit values between the two directions.
 * @param {Uint8Array} plane (lines, from) if the lines are rows, (from, lines) if they are columns
 * @returns {Uint8Array} (lines, to) or (to, lines)
 */
function resample(plane, lines, from, to, rows) {
  const result = new Uint8Array(lines * to);
  weights(from, to).forEach(({ first, factors }, pixel) => {
    for (let line = 0; line < lines; line++) {
      let at = rows ? line * from + first : first * lines + line;
      let sum = 2 ** 21; // one half, to round
      for (const factor of factors) {
        sum += factor * plane[at];
        at += rows ? 1 : lines;
      }
      result[rows ? line * to + pixel : pixel * lines + line] = Math.min(Math.max(Math.floor(sum / 2 ** 22), 0), 255);
    }
  });
  return result;
}

/** For every pixel of the result: the first pixel of the source that counts, and how much each from there on does. */
function weights(from, to) {
  const scale = from / to, stretch = Math.max(scale, 1), reach = 3 * stretch;
  return Array.from({ length: to }, (_, pixel) => {
    const center = (pixel + 0.5) * scale;
    const first = Math.max(Math.trunc(center - reach + 0.5), 0);
    const end = Math.min(Math.trunc(center + reach + 0.5), from);
    const raw = Array.from({ length: end - first }, (_, i) => lanczos((first + i - center + 0.5) / stretch));
    const sum = raw.reduce((a, b) => a + b, 0);
    return { first, factors: raw.map((value) => Math.round((value / sum) * 2 ** 22)) };
  });
}

function lanczos(x) {
  return Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}
