# What _cells_cy.py needs from C: the order of stores and loads by the compiler's __atomic builtins (on x86-64 they cost
# nothing but order).
cdef extern from *:
    """
    static inline void shm_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
    static inline double shm_load(const double *p) {
        double v; __atomic_load(p, &v, __ATOMIC_ACQUIRE); return v;
    }
    /* Make *p at least v: the one word that several processes write at will, so the one compare-and-swap. */
    static inline void shm_raise(double *p, double v) {
        double old; __atomic_load(p, &old, __ATOMIC_RELAXED);
        while (old < v && !__atomic_compare_exchange(p, &old, &v, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {}
    }
    """
    void shm_release() noexcept nogil
    double shm_load(const double *p) noexcept nogil
    void shm_raise(double *p, double v) noexcept nogil
