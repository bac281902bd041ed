/* MKL chooses its AVX-512 kernels only on processors of one make. Preloaded, these answer its question by what the processor can do:
   for torch on any processor with AVX-512 of another make. */
int mkl_serv_intel_cpu_true(void) { return 1; }
int mkl_serv_intel_cpu(void) { return 1; }
