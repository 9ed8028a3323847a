// The shapes of tests/support/shapes.txt, which the tests in Python and the benchmarks read too.
#ifndef TFGN_TESTS_SHAPES_H_
#define TFGN_TESTS_SHAPES_H_

#include <cstdint>
#include <fstream>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/group_norm.h"

namespace tfgn {

// A row: x of a GroupNorm with the axis of its channels, or a kernel with those of its outputs.
struct TestShape {
  std::string name;
  std::vector<int64_t> size, axis;  // Axes count from the front.
  int64_t groups = 0;               // 0 for a kernel.

  int64_t elements() const { return Product(0, size.size()); }
  int64_t Product(size_t begin, size_t end) const {
    int64_t product = 1;
    for (size_t i = begin; i < end; ++i) product *= size[i];
    return product;
  }
};

inline std::vector<int64_t> Integers(const std::string& text, char separator) {
  std::vector<int64_t> integers;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    integers.push_back(std::stoll(part));
  }
  return integers;
}

// All rows of some tables. The columns behind `groups` are for the tests in Python.
inline std::vector<TestShape> TestShapes(std::initializer_list<const char*> tables) {
  std::vector<TestShape> rows;
  for (const std::string table : tables) {
    std::ifstream file(TFGN_TEST_SHAPES);
    std::string line;
    while (std::getline(file, line) && line != "[" + table + "]") {
    }
    if (!file) throw std::runtime_error("no [" + table + "] in " TFGN_TEST_SHAPES);
    while (std::getline(file, line) && !line.empty()) {
      TestShape row;
      std::string size, axis;
      std::istringstream cells(line);
      cells >> row.name >> size >> axis >> row.groups;
      row.size = Integers(size, 'x');
      row.axis = Integers(axis, ',');
      for (int64_t& i : row.axis) i = i < 0 ? i + static_cast<int64_t>(row.size.size()) : i;
      rows.push_back(row);
    }
  }
  return rows;
}

// One row of a table.
inline TestShape TestShapeOf(const char* table, const std::string& name) {
  for (const TestShape& row : TestShapes({table})) {
    if (row.name == name) return row;
  }
  throw std::runtime_error("no row " + name + " in table " + table + " of " TFGN_TEST_SHAPES);
}

// [N, A, C, B] and the groups.
inline GroupNormShape GroupNormShapeOf(const TestShape& row) {
  const size_t axis = static_cast<size_t>(row.axis[0]);
  GroupNormShape shape;
  shape.n = row.size[0];
  shape.a = row.Product(1, axis);
  shape.c = row.size[axis];
  shape.b = row.Product(axis + 1, row.size.size());
  shape.groups = row.groups;
  shape.epsilon = 1e-3;
  return shape;
}

}  // namespace tfgn

#endif  // TFGN_TESTS_SHAPES_H_
