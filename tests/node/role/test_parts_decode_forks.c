/* What tests/node/role/test_role_decode_forks.c says of a decode worker holds of one that is cut into three parts as well. */
#define W_DEFAULT_PARTS 3
#include "tests/node/role/test_role_decode_forks.c"
