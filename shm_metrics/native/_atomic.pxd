# What _cells_cy.py needs from C: the order of stores and loads by the compiler's __atomic builtins (on x86-64 they cost
# nothing but order).
cdef extern from *:
    """
    static inline void shm_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
    static inline double shm_load(const double *p) {
        double v; __atomic_load(p, &v, __ATOMIC_ACQUIRE); return v;
    }
    """
    void shm_release() noexcept nogil
    double shm_load(const double *p) noexcept nogil
