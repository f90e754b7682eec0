/* pipeline/link/transport_ucx_lanes.c: what UCX says of an endpoint, in the words of its versions. */
#include "pipeline/link/transport_ucx_lanes.h"
#include "tests/check.h"

SL_TEST(lanes_are_read_from_what_ucx_says_of_an_endpoint)
{
    static const struct {
        const char *text, *list;
        bool more, reaches;
    } cases[] = {
        {"#\n# UCP endpoint \n#\n#               peer: <no debug data>\n"
         "#                 lane[0]:  0:tcp/lo.0 md[0]                -> md[0]/tcp/sysdev[255] am am_bw#0 keepalive "
         "wireup\n#\n#                 am_send: 0..<egr/short>..8185..<rndv>..(inf)\n",
         "tcp/lo", false, false}, /* 1.13.1 */
        {"#                 lane[0]:  1:posix/memory.0 md[1]          -> md[1]/posix/sysdev[255] am am_bw#0 keepalive\n",
         "posix/memory", true, false},
        {"#                 lane[0]:  0:tcp/lo.0 md[0]                -> md[0]/tcp/sysdev[255] seg 4294967295 am "
         "keepalive wireup\n"
         "#                 lane[1]:  2:cuda_ipc/cuda.0 md[2]         -> md[2]/cuda_ipc/sysdev[0] seg 4294967295 "
         "rma_bw#0\n",
         "tcp/lo, cuda_ipc/cuda", true, true}, /* 1.22.0 */
        {"# lane[0]: 3:rc_mlx5/mlx5_0:1.0 md[4] -> md[4]/ib/sysdev[1] rma_bw#0 am\n", "rc_mlx5/mlx5_0:1",
         true, true},
        {"#\n# UCP endpoint \n#\n", "", false, false},
        {"lane[", "", false, false},
        {"lane[0]: 0:", "", false, false},
        {"lane[0]: 0:tcp/", "", false, false},
        {"lane[0]: 0:tcp/lo.0 rma_bw#0 am\nlane[1]: 0:posix/memory.0 am\n", "tcp/lo, posix/memory", true,
         false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sl_ucx_lanes lanes = sl_ucx_lanes_read(cases[i].text);
        CHECK_INT(lanes.more, cases[i].more);
        CHECK_INT(lanes.reaches, cases[i].reaches);
        CHECK_STR(lanes.list, cases[i].list);
    }
}

SL_TEST(more_lanes_than_can_be_named_are_read_to_the_end)
{
    char text[4096] = "";
    for (int i = 0; i < 40; i++)
        strcat(text, "# lane[0]: 0:tcp/enp129s0f0np0.0 md[0]\n");
    strcat(text, "# lane[40]: 1:cuda_ipc/cuda.0 md[1]\n");
    struct sl_ucx_lanes lanes = sl_ucx_lanes_read(text);
    CHECK(lanes.more && !lanes.reaches);
    CHECK_INT(strlen(lanes.list), 127);
}

SL_TEST(tcp_and_copies_within_a_process_are_all_that_is_not_more)
{
    static const struct {
        const char *tls;
        bool more;
    } cases[] = {{"tcp", false},
                 {"tcp,cuda_copy", false},
                 {"self,gdr_copy,tcp,cuda_copy", false},
                 {"", false},
                 {",,tcp,", false},
                 {"tcp,cuda_copy,cuda_ipc", true},
                 {"tcp,posix", true},
                 {"rc,tcp", true},
                 {"all", true},
                 {"cuda", true},
                 {"^rc", true},
                 {"tcpx", true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (sl_ucx_tls_has_more(cases[i].tls) != cases[i].more)
            sl_test_fail(__FILE__, __LINE__, "%s", cases[i].tls);
}
