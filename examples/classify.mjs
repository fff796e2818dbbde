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
const names = JSON.parse(model.metadataProps.find(({ key }) => key === "class_names").value);
const [, channels, height, width] = model.graph.input[0].type.tensorType.shape.dim.map(({ dimValue }) => Number(dimValue));

const pixels = await sharp(picture) // interleaved: height, width, channels
  .resize(width, height, { fit: "fill" })
  .toColourspace(channels === 1 ? "b-w" : "srgb")
  .removeAlpha()
  .raw()
  .toBuffer();
const images = new Uint8Array(channels * height * width);
pixels.forEach((value, index) => (images[(index % channels) * height * width + Math.floor(index / channels)] = value));

const { probabilities } = await session.run({ images: new ort.Tensor("uint8", images, [1, channels, height, width]) });
const best = probabilities.data.indexOf(Math.max(...probabilities.data));
console.log(`${names[best]} ${probabilities.data[best].toFixed(4)}`);
