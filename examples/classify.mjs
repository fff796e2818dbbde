// Classify one image with the ONNX file alone: node classify.mjs classifier.onnx picture.png
//
// Needs: npm install onnxruntime-node onnx-proto sharp

import { readFile } from "node:fs/promises";
import ort from "onnxruntime-node";
import onnxProto from "onnx-proto";
import sharp from "sharp";

const [modelFile, picture] = process.argv.slice(2);
const content = await readFile(modelFile);
const session = await ort.InferenceSession.create(content);

// onnxruntime's JavaScript API does not expose the metadata, so read it from the file itself.
const model = onnxProto.onnx.ModelProto.decode(content);
const read = (wanted) => JSON.parse(model.metadataProps.find(({ key }) => key === wanted).value);
const names = read("class_names");
const how = read("preprocessing"); // of the training images
const [, channels, height, width] = model.graph.input[0].type.tensorType.shape.dim.map(({ dimValue }) => Number(dimValue));

// What the training did with its images: upright, on a background where transparent, to the size of the model.
const refuse = (reason) => {
  console.error(`${picture}: ${reason}`);
  process.exit(1);
};
const { depth, autoOrient } = await sharp(picture).metadata().catch((error) => refuse(error.message));
if (depth !== "uchar" && depth !== "ushort") refuse("has 32 bits a pixel; save it with 8 or 16");
const rounded = (numerator, denominator) => Math.max(1, Math.floor((2 * numerator + denominator) / (2 * denominator)));
const { width: w, height: h } = autoOrient;
const isWide = w * height >= h * width;
let [kept, inner] = [[w, h], [width, height]]; // what is cut out of the picture, and the size that it gets
if (how.fit === "crop") kept = isWide ? [rounded(h * width, height), h] : [w, rounded(w * height, width)];
if (how.fit === "pad") inner = isWide ? [width, rounded(h * width, w)] : [rounded(w * height, h), height];
const [left, top] = [Math.floor((width - inner[0]) / 2), Math.floor((height - inner[1]) / 2)];
const pixels = await sharp(picture) // interleaved: height, width, channels
  .autoOrient()
  .flatten({ background: how.background })
  .extract({ left: Math.floor((w - kept[0]) / 2), top: Math.floor((h - kept[1]) / 2), width: kept[0], height: kept[1] })
  .resize(inner[0], inner[1], { fit: "fill", kernel: "lanczos3" })
  .extend({ left, top, right: width - inner[0] - left, bottom: height - inner[1] - top, background: how.background })
  .toColourspace(channels === 1 ? "b-w" : "srgb")
  .removeAlpha()
  .raw()
  .toBuffer();
const images = new Uint8Array(channels * height * width);
pixels.forEach((value, index) => (images[(index % channels) * height * width + Math.floor(index / channels)] = value));

const { probabilities } = await session.run({ images: new ort.Tensor("uint8", images, [1, channels, height, width]) });
const best = probabilities.data.indexOf(Math.max(...probabilities.data));
console.log(`${names[best]} ${probabilities.data[best].toFixed(4)}`);
