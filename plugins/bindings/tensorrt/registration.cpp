// Makes the library's ops known to TensorRT when the library is loaded.

#include "creator.hpp"

#include <stdexcept>

namespace edgec {
namespace {

// The registry keeps pointers to the creators: they live as long as the library.
class Registration {
public:
    Registration() {
        guarded("edgec's plugins", 0, [this] {
            nvinfer1::IPluginRegistry* const registry = getPluginRegistry();
            if (registry == nullptr) throw std::runtime_error("TensorRT has no plugin registry");
            for (const Op* op : library_ops()) {
                creators_.push_back(make_creator(*op));
                if (!registry->registerCreator(*creators_.back(), NAMESPACE))
                    report(op->name(), "another library has registered it already");
            }
            return 0;
        });
    }

private:
    std::vector<std::unique_ptr<Creator>> creators_;
};

const Registration registration;

}  // namespace
}  // namespace edgec
