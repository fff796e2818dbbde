// Converts a picture to the bytes that the model takes, with the same arithmetic as `python -m tools.predict`: Pillow's
// grayscale conversion and Lanczos resampling. A canvas could shrink the picture in one line, but browsers differ in
// how they do it, and at 28 x 28 pixels a photograph may then get a different class.

/**
 * The pixels of an image, rotated according to its EXIF data, on the model's background where it is transparent.
 * Semi-transparent pixels, JPEG colors and 16-bit images may differ from Pillow's by one or two levels of 255.
 * @param {Blob | HTMLImageElement} image a file, or an element of the page
 * @param {string} background black or white
 * @returns {Promise<ImageData>}
 * @throws {DOMException} the browser cannot read it as a picture
 */
export async function decode(image, background) {
  if (image instanceof HTMLImageElement) await image.decode(); // it may still be loading
  const bitmap = await createImageBitmap(image, { colorSpaceConversion: "none" }); // Pillow ignores profiles too
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = background;
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

/**
 * A picture resized and converted to the model's size and colors.
 * @param {ImageData} picture
 * @param {{channels: number, height: number, width: number, preprocessing: {fit: string, background: string}}} model
 * @param {boolean} invert for dark objects on a light background
 * @returns {Uint8Array} (channels, height, width)
 */
export function prepare(picture, model, invert) {
  const { box, size, place } = layout(picture.width, picture.height, model);
  const pixels = new Uint8Array(model.channels * model.height * model.width);
  pixels.fill(model.preprocessing.background === "white" ? 255 : 0);
  planes(picture, model.channels).forEach((plane, channel) => {
    const small = resize(cut(plane, picture.width, box), box.width, box.height, size.width, size.height);
    for (let y = 0; y < size.height; y++) {
      const row = small.subarray(y * size.width, (y + 1) * size.width);
      pixels.set(row, (channel * model.height + place.y + y) * model.width + place.x);
    }
  });
  return invert ? pixels.map((value) => 255 - value) : pixels;
}

/** What is cut out of a picture, the size that it gets, and where it lies: classifier/preprocessing.py has the same. */
function layout(width, height, model) {
  const box = { x: 0, y: 0, width, height };
  const size = { width: model.width, height: model.height };
  const place = { x: 0, y: 0 };
  const part = (a, b, c) => Math.max(1, Math.floor((2 * a * b + c) / (2 * c))); // a * b / c, rounded half up
  const wide = width * model.height >= height * model.width;
  if (model.preprocessing.fit === "crop" && wide) {
    box.width = part(height, model.width, model.height);
    box.x = Math.floor((width - box.width) / 2);
  } else if (model.preprocessing.fit === "crop") {
    box.height = part(width, model.height, model.width);
    box.y = Math.floor((height - box.height) / 2);
  } else if (model.preprocessing.fit === "pad" && wide) {
    size.height = part(height, model.width, width);
    place.y = Math.floor((model.height - size.height) / 2);
  } else if (model.preprocessing.fit === "pad") {
    size.width = part(width, model.height, height);
    place.x = Math.floor((model.width - size.width) / 2);
  }
  return { box, size, place };
}

/** A part of a plane. */
function cut(plane, stride, { x, y, width, height }) {
  if (width === stride && plane.length === width * height) return plane;
  const result = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    const start = (y + row) * stride + x;
    result.set(plane.subarray(start, start + width), row * width);
  }
  return result;
}

/** A plane of width x height resized, in both directions. */
function resize(plane, width, height, newWidth, newHeight) {
  // The order of the two directions changes some values by one. This order matches Pillow 13.
  const tall = height > newHeight && height - newHeight > 2 * (width - newWidth);
  return tall
    ? resample(resample(plane, width, height, newHeight, false), newHeight, width, newWidth, true)
    : resample(resample(plane, height, width, newWidth, true), newWidth, height, newHeight, false);
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

/** Planes of red, green and blue, or one of gray. The weights are ITU-R 601's, as Pillow's integers. */
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
 * Source: Pillow, `Resample.c`: integer weights of 22 bits, 8-bit values between the two directions.
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

/** For each pixel of the result: the first source pixel that contributes, and the weights from there on. */
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
