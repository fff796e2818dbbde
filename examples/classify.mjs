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
const fit = { stretch: "fill", pad: "contain", crop: "cover" }[how.fit];
const pixels = await sharp(picture) // interleaved: height, width, channels
  .rotate()
  .flatten({ background: how.background })
  .resize(width, height, { fit, background: how.background, kernel: "lanczos3" })
  .toColourspace(channels === 1 ? "b-w" : "srgb")
  .removeAlpha()
  .raw()
  .toBuffer();
const images = new Uint8Array(channels * height * width);
pixels.forEach((value, index) => (images[(index % channels) * height * width + Math.floor(index / channels)] = value));

const { probabilities } = await session.run({ images: new ort.Tensor("uint8", images, [1, channels, height, width]) });
const best = probabilities.data.indexOf(Math.max(...probabilities.data));
console.log(`${names[best]} ${probabilities.data[best].toFixed(4)}`);
