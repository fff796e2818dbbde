// The page: a picture comes from a sample, a file, the clipboard, a drop or a drawing; the model's answer is shown.

import { load } from "./classifier.js";
import { decode, isLight, prepare } from "./pixels.js";

const FIELD_PIXELS = 448; // approximate width; rounded to a multiple of the model's width, so that pixels stay square
const MOST_BARS = 20; // of more classes, half as many of the likeliest
const PEN = 1 / 11; // fraction of the field's width

const [field, choose, clear, invert, file, hint, problem, answer, prediction, source, bars, samples, about] = [
  "field", "choose", "clear", "invert", "file", "hint", "problem", "answer", "prediction", "source", "bars", "samples",
  "about",
].map((id) => document.getElementById(id));
const rows = []; // of the bars, one for each class
const context = field.getContext("2d", { alpha: false, willReadFrequently: true });
const usualHint = hint.textContent;

let model;
let current; // {picture: ImageData, name: string, drawn: boolean} or undefined if the field is empty
let turn = 0; // counts pictures, so that a late answer to an earlier picture is dropped

// --- pictures in ------------------------------------------------------------------------------------------------

async function takeSample(sample, image) {
  invert.checked = false;
  await take(image, `${sample.name}, labeled ${sample.class_name}`);
}

async function takeOwn(files) {
  const picture = [...files].find((candidate) => candidate.type.startsWith("image/"));
  if (!picture) {
    problem.textContent = "That is not a picture.";
    return;
  }
  deselectSamples();
  await take(picture, picture.name);
}

async function take(image, name) {
  const mine = ++turn;
  try {
    const picture = await decode(image, model.preprocessing.background);
    if (mine === turn) await show({ picture, name, drawn: false });
  } catch {
    if (mine === turn) problem.textContent = `${name}: this browser cannot read it as a picture.`;
  }
}

function deselectSamples() {
  for (const sample of samples.querySelectorAll(":checked")) sample.checked = false;
}

// --- drawing ----------------------------------------------------------------------------------------------------

function startDrawing(event) {
  if (!model || event.button !== 0) return;
  if (!current?.drawn) empty();
  field.setPointerCapture(event.pointerId);
  answer.ariaBusy = "true"; // a screen reader announces the answer when the line is finished
  draw(event);
}

function draw(event) {
  if (!field.hasPointerCapture(event.pointerId)) return;
  const box = field.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * field.width;
  const y = ((event.clientY - box.top) / box.height) * field.height;
  if (event.type === "pointerdown") {
    context.beginPath();
    context.moveTo(x, y);
  }
  context.lineTo(x, y);
  context.stroke();
  turn++;
  show({ picture: context.getImageData(0, 0, field.width, field.height), name: "your drawing", drawn: true });
}

function empty() {
  turn++;
  deselectSamples();
  invert.checked = false;
  current = undefined;
  context.fillRect(0, 0, field.width, field.height);
  prediction.textContent = "Show it something";
  source.textContent = problem.textContent = "";
  giveHint(model.background);
  showBars([]);
}

// --- answer out -------------------------------------------------------------------------------------------------

async function show(next) {
  current = next;
  const mine = turn;
  const pixels = prepare(current.picture, model, invert.checked);
  if (!current.drawn) showPixels(pixels);
  problem.textContent = "";
  giveHint(isLight(pixels, model) ? "light" : "dark");

  const probabilities = await model.classify(pixels);
  if (mine !== turn) return;
  const best = probabilities.indexOf(Math.max(...probabilities));
  prediction.textContent = `${model.class_names[best]}, ${percent(probabilities[best])}`;
  source.textContent = current.name;
  showBars(probabilities);
}

function giveHint(background) {
  const strange = !["mixed", background].includes(model.background);
  hint.classList.toggle("important", strange);
  hint.textContent = strange
    ? `The model knows ${model.background} backgrounds, and this one is ${background}: ` +
      `${invert.checked ? "switch off" : "try"} “Invert”.`
    : usualHint;
}

function showBars(probabilities) {
  const best = Math.max(...probabilities);
  rows.forEach((row, label) => {
    const probability = probabilities[label] ?? 0;
    const meter = row.querySelector("[role=meter]");
    meter.ariaValueNow = probability;
    meter.ariaValueText = row.lastChild.textContent = percent(probability);
    meter.firstChild.style.width = percent(probability);
    row.classList.toggle("likeliest", probability > 0 && probability === best);
  });
  if (rows.length > MOST_BARS) {
    const order = rows.map((_, label) => label).sort((a, b) => (probabilities[b] ?? 0) - (probabilities[a] ?? 0));
    bars.replaceChildren(...order.slice(0, MOST_BARS / 2).map((label) => rows[label]));
  }
}

function showPixels(pixels) {
  const { channels, height, width } = model;
  const image = new ImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let color = 0; color < 3; color++) {
      image.data[4 * pixel + color] = pixels[pixel + (channels === 3 ? color * width * height : 0)];
    }
    image.data[4 * pixel + 3] = 255;
  }
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(small, 0, 0, field.width, field.height);
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)}%`;
}

// --- the page ---------------------------------------------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function build() {
  const scale = Math.max(1, Math.round(FIELD_PIXELS / model.width));
  field.width = model.width * scale;
  field.height = model.height * scale;
  Object.assign(context, {
    imageSmoothingEnabled: false, strokeStyle: "white", lineWidth: field.width * PEN, lineCap: "round", lineJoin: "round",
  });
  for (const name of model.class_names) {
    const meter = element("div", { role: "meter", ariaLabel: name, ariaValueMin: 0, ariaValueMax: 1 }, element("div"));
    rows.push(element("li", {}, element("span", { textContent: name }), meter, element("span")));
  }
  bars.append(...rows);
  for (const sample of model.samples) {
    const image = element("img", { src: sample.file, alt: sample.class_name });
    const radio = element("input", { type: "radio", name: "sample", onchange: () => takeSample(sample, image) });
    samples.append(element("label", {}, radio, image));
  }
  const colors = model.channels === 1 ? "gray" : "RGB";
  about.textContent =
    `${model.class_names.length} classes · ${model.width} × ${model.height} ${colors} pixels · ` +
    `${Math.round(model.bytes / 1000).toLocaleString("en")} kB · onnxruntime-web`;
  empty();
}

function listen() {
  field.addEventListener("pointerdown", startDrawing);
  field.addEventListener("pointermove", draw);
  field.addEventListener("lostpointercapture", () => (answer.ariaBusy = "false"));
  clear.addEventListener("click", empty);
  choose.addEventListener("click", () => file.click());
  file.addEventListener("change", async () => {
    await takeOwn(file.files);
    file.value = ""; // so that the same file can be chosen again
  });
  invert.addEventListener("change", () => {
    turn++;
    if (current) show(current);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) takeOwn(event.clipboardData.files);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // otherwise the browser would leave this page and open the file
    document.body.classList.add("receiving");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("receiving");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("receiving");
    takeOwn(event.dataTransfer.files);
  });
}

try {
  model = await load();
  build();
  listen();
  samples.querySelector("input")?.click();
} catch (error) {
  prediction.textContent = "";
  problem.textContent = `The model could not be loaded: ${error.message}`;
}
