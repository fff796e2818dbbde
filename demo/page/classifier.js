// The exported model in onnxruntime-web. The file includes scaling, normalization and softmax: it maps bytes to
// probabilities.

import * as ort from "./ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // more would need cross-origin isolation (server headers); one takes milliseconds

/**
 * @returns {Promise<object>} the contents of model.json (class_names, channels, height, width, samples, ...) and
 *   `classify`
 */
export async function load() {
  const [about, session] = await Promise.all([
    fetch("model.json").then((response) => response.json()),
    ort.InferenceSession.create("classifier.onnx", { executionProviders: ["wasm"] }),
  ]);
  const shape = [1, about.channels, about.height, about.width];
  let previous = Promise.resolve(); // a session runs one call at a time

  /** Maps (channels, height, width) bytes to one probability per class. */
  function classify(pixels) {
    const answer = previous.then(async () => {
      const { probabilities } = await session.run({ images: new ort.Tensor("uint8", pixels, shape) }, ["probabilities"]);
      return Array.from(probabilities.data);
    });
    previous = answer.catch(() => {});
    return answer;
  }

  return { ...about, classify };
}
