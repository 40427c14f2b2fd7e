// Whether a bundle's engine can run on this machine, seen before anything of the bundle is loaded.
#pragma once

#include <string>

#include "bundle.hpp"
#include "description.hpp"

namespace edgec {

// Throws Error where the processor lacks what the engine's numbers rest on, or a plugin is for another processor.
void check_machine(const Bundle &bundle, const Description &engine);

// Throws Error where the installed engine is older than the one that verified the bundle, or, for a bundle with
// plugins, another.
void check_version(const std::string &name, const std::string &installed, const Description &engine);

// Worker threads for an engine: EDGEC_THREADS, else what the bundle says, else the physical cores that this process
// may use.
int worker_threads(int described);

}  // namespace edgec
