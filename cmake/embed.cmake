# cmake -DINPUT=file -DOUTPUT=file.c -DNAME=symbol -P embed.cmake
# A file's bytes as a C array `symbol` and its length `symbol_bytes`, without a tool that is not there
# on a bare machine and without the assembler's .incbin, which dependency scanners do not see.
file(READ ${INPUT} hex HEX)
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
file(WRITE ${OUTPUT} "#include <stddef.h>\n#include <stdint.h>\n"
     "_Alignas(16) const uint8_t ${NAME}[] = {\n${hex}\n};\nconst size_t ${NAME}_bytes = sizeof ${NAME};\n")
