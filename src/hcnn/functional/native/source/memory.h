// Memory of one call. Where there is none, std::bad_alloc goes up to dispatch.cpp, and Python raises a MemoryError.
#pragma once
#include <cstdlib>
#include <new>

namespace {

template <class T>
class Memory {
    T* const at;
    Memory(size_t count, void* memory) : at((T*)memory) {
        if (!memory && count) throw std::bad_alloc();
    }

  public:
    explicit Memory(size_t count) : Memory(count, malloc(sizeof(T) * count)) {}
    static Memory zeros(size_t count) { return Memory(count, calloc(count, sizeof(T))); }
    Memory(const Memory&) = delete;
    ~Memory() { free(at); }
    operator T*() const { return at; }
};

}  // namespace
