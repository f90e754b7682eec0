/* kernels/cuda/kinds: a GPU is of the kind that its name has as a word, and what the table says of each kind holds together. */
#include "kernels/cuda/kinds.h"
#include "tests/check.h"

SL_TEST(a_gpu_is_of_the_kind_whose_word_its_name_has)
{
    static const struct {
        const char *name, *kind;
    } names[] = {{"NVIDIA H200", "h200"},
                 {"NVIDIA H20", "h20"},
                 {"NVIDIA H100 80GB HBM3", "h100"},
                 {"NVIDIA A100-SXM4-80GB", "a100"},
                 {"NVIDIA L40S", "l40s"},
                 {"NVIDIA B200", "b200"},
                 {"NVIDIA GeForce RTX 5090", "rtx-5090"},
                 {"NVIDIA H100 PCIe", NULL},
                 {"NVIDIA A100-PCIE-40GB", NULL},
                 {"NVIDIA H200 NVL", NULL},
                 {"NVIDIA A100-SXM4-40GB MIG 1g.5gb", NULL},
                 {"NVIDIA L40", NULL},
                 {"NVIDIA GB200", NULL},
                 {"a twin of a GPU", NULL},
                 {"", NULL}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct sl_gpu_kind *kind = sl_gpu_kind_of(names[i].name);
        CHECK_STR(kind ? kind->name : "", names[i].kind ? names[i].kind : "");
    }
    CHECK(sl_gpu_kind_find("H200") == sl_gpu_kind_of("NVIDIA H200") && !sl_gpu_kind_find("h300"));
}

SL_TEST(no_instruction_does_more_than_the_data_sheet_says)
{
    CHECK(sl_gpu_n_kinds >= 7);
    for (uint32_t i = 0; i < sl_gpu_n_kinds; i++) {
        const struct sl_gpu_kind *k = &sl_gpu_kinds[i];
        CHECK(k->int8_tops > k->bf16_tflops && k->bf16_tflops > k->f32_tflops && k->f32_tflops > 0);
        CHECK(k->imma_tops <= k->int8_tops && (k->igmma_tops == 0 || k->igmma_tops == k->int8_tops));
        CHECK(k->igmma_tops == 0 || k->name[0] == 'h'); /* wgmma is Hopper's */
        CHECK(k->copy_gbs <= k->memory_gbs && k->memory_gb > 0 && k->link_gbs > 0);
        CHECK(k->from && strlen(k->from) > 10);
    }
}
