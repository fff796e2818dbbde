// Classify one image with the ONNX file alone, in a runtime other than onnxruntime: ./classify classifier.onnx picture.pgm
//
// Needs OpenVINO, whose Python package includes the C++ headers and libraries: pip install openvino
//   root=$(python -c 'import openvino, pathlib; print(pathlib.Path(openvino.__file__).parent)')
//   g++ -std=c++17 classify.cpp -I"$root/include" "$root"/libs/libopenvino.so.* -Wl,-rpath,"$root/libs" -o classify
// The image must be PGM (grayscale) or PPM (color), formats that need no library, and of the model's size:
//   python -c 'from PIL import Image; Image.open("picture.png").resize((28, 28), Image.LANCZOS).save("picture.pgm")'

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

// The strings of a JSON list: ["T-shirt/top", "a \"quoted\" name", "stra\u00dfe"], as UTF-8.
std::vector<std::string> strings(const std::string& list) {
    std::vector<std::string> found;
    auto hex = [&](size_t at) { return static_cast<uint32_t>(std::stoul(list.substr(at, 4), nullptr, 16)); };
    for (size_t at = list.find('"'); at < list.size(); at = list.find('"', at + 1)) {
        std::string text;
        for (++at; list.at(at) != '"'; ++at) {
            if (list[at] != '\\') {
                text += list[at];
                continue;
            }
            const std::string plain = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
            const char escaped = list.at(++at);
            if (escaped != 'u') {
                text += meant.at(plain.find(escaped));
                continue;
            }
            uint32_t code = hex(at + 1);
            at += 4;
            if (code >= 0xD800 && code < 0xDC00) {  // the first half of a pair
                code = 0x10000 + ((code - 0xD800) << 10) + (hex(at + 3) - 0xDC00);
                at += 6;
            }
            if (code < 0x80) {
                text += static_cast<char>(code);
            } else {
                const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes after the first
                text += static_cast<char>((0xFF << (7 - more) & 0xFF) | (code >> 6 * more));
                for (int byte = more - 1; byte >= 0; --byte) text += static_cast<char>(0x80 | (code >> 6 * byte & 0x3F));
            }
        }
        found.push_back(text);
    }
    return found;
}

int main(int, char** arguments) {
    auto model = ov::Core().read_model(arguments[1]);
    const auto input = model->input("images").get_partial_shape();  // batch, channels, height, width
    const size_t channels = input[1].get_length(), height = input[2].get_length(), width = input[3].get_length();

    const auto names = strings(model->get_rt_info<std::string>("framework", "class_names"));

    std::ifstream file(arguments[2], std::ios::binary);
    std::string kind;
    size_t columns = 0, rows = 0, brightest = 0;
    file >> kind >> columns >> rows >> brightest;
    if (kind != (channels == 1 ? "P5" : "P6") || columns != width || rows != height || brightest != 255) {
        std::cerr << "the picture must be " << (channels == 1 ? "PGM" : "PPM") << " of " << width << "x" << height << "\n";
        return 1;
    }
    file.get();  // the newline after the header
    const std::vector<char> pixels{std::istreambuf_iterator<char>(file), {}};  // interleaved: height, width, channels

    ov::Tensor images(ov::element::u8, {1, channels, height, width});
    for (size_t index = 0; index < images.get_size(); ++index)
        images.data<uint8_t>()[index % channels * height * width + index / channels] = pixels.at(index);

    // By default, OpenVINO computes in 16 bits where the processor supports it.
    const auto precision = ov::hint::inference_precision(ov::element::f32);
    auto request = ov::Core().compile_model(model, "CPU", precision).create_infer_request();
    request.set_tensor("images", images);
    request.infer();
    const auto probabilities = request.get_tensor("probabilities");
    const float* first = probabilities.data<float>();
    const float* best = std::max_element(first, first + probabilities.get_size());
    std::cout << names.at(best - first) << " " << std::fixed << std::setprecision(4) << *best << "\n";
}
