// Classify one image with the ONNX file alone, in a runtime other than onnxruntime: ./classify classifier.onnx picture.pgm
//
// Needs OpenVINO, whose Python package includes the C++ headers and libraries: pip install openvino
//   root=$(python -c 'import openvino, pathlib; print(pathlib.Path(openvino.__file__).parent)')
//   g++ -std=c++17 classify.cpp -I"$root/include" "$root"/libs/libopenvino.so.* -Wl,-rpath,"$root/libs" -o classify
// The image must be PGM (grayscale) or PPM (color), formats that need no library, and of the model's size:
//   python -c 'from PIL import Image; Image.open("picture.png").resize((28, 28)).save("picture.pgm")'

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <openvino/openvino.hpp>
#include <regex>
#include <string>
#include <vector>

int main(int, char** arguments) {
    auto model = ov::Core().read_model(arguments[1]);
    const auto input = model->input("images").get_partial_shape();  // batch, channels, height, width
    const size_t channels = input[1].get_length(), height = input[2].get_length(), width = input[3].get_length();

    // The names are a JSON list in the metadata: ["T-shirt/top", ...]
    const auto list = model->get_rt_info<std::string>("framework", "class_names");
    const std::regex quoted("\"([^\"]*)\"");
    std::vector<std::string> names;
    for (std::sregex_iterator name(list.begin(), list.end(), quoted), end; name != end; ++name) names.push_back((*name)[1]);

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
