// SHA-256 (FIPS 180-4).
#pragma once

#include <string>
#include <vector>

namespace edgec {

// The digest in hex.
std::string sha256(const std::vector<char> &data);

}  // namespace edgec
