/* grpc.reflection.v1 and v1alpha over the descriptors that were embedded at build time.
 *
 * Both versions have the same messages byte for byte, so one handler serves both. There is no
 * descriptor.proto in C here: a walk over raw fields finds what a client asks for. Field numbers
 * below are those of google.protobuf.FileDescriptorSet and what it contains, fixed for ever. A file
 * is answered alone; a client asks for the files that it imports by their names. */
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "node/edge/edge.h"
#include "node/rpc/pb_impl.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

extern const uint8_t sl_proto_descriptors[];
extern const size_t sl_proto_descriptors_bytes;

enum { SET_FILE = 1 };
enum { FILE_NAME = 1, FILE_PACKAGE = 2, FILE_MESSAGE = 4, FILE_ENUM = 5, FILE_SERVICE = 6 };
enum { NAME = 1, MESSAGE_FIELD = 2, MESSAGE_NESTED = 3, MESSAGE_ENUM = 4, MEMBER = 2 };
enum { MAX_LISTED = 16, MAX_DEPTH = 8 };
enum { CODE_NOT_FOUND = 5, CODE_INVALID = 3 };

typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;
#define ASKED(name) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##name
#define ANSWER(name) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##name

static bool equals(struct sl_pb_span span, const char *text)
{
    return strlen(text) == span.bytes && memcmp(span.data, text, span.bytes) == 0;
}

/* Cuts "span." off the front of a dotted name; NULL: it does not start so. "" is left when it ends
 * there. */
static const char *after(struct sl_pb_span span, const char *name)
{
    if (!span.data || strncmp(name, (const char *)span.data, span.bytes) != 0)
        return NULL;
    name += span.bytes;
    if (*name == 0)
        return name;
    return *name == '.' ? name + 1 : NULL;
}

/* Does an enum or a service carry the name, itself or as a member? */
static bool has_member(struct sl_pb_span owner, const char *name)
{
    const char *left = after(sl_pb_find(owner, NAME), name);
    struct sl_pb_span item;
    uint32_t number;
    if (!left || !*left)
        return left != NULL;
    while (sl_pb_next(&owner, &number, &item))
        if (number == MEMBER && item.data && equals(sl_pb_find(item, NAME), left))
            return true;
    return false;
}

static bool message_has(struct sl_pb_span message, const char *name, uint32_t depth)
{
    const char *left = after(sl_pb_find(message, NAME), name);
    struct sl_pb_span item;
    uint32_t number;
    if (!left || !*left || depth == MAX_DEPTH)
        return left && !*left;
    while (sl_pb_next(&message, &number, &item)) {
        if (!item.data)
            continue;
        if (number == MESSAGE_NESTED && message_has(item, left, depth + 1))
            return true;
        if (number == MESSAGE_ENUM && has_member(item, left))
            return true;
        if (number == MESSAGE_FIELD && equals(sl_pb_find(item, NAME), left))
            return true;
    }
    return false;
}

static bool file_has(struct sl_pb_span file, const char *symbol)
{
    const char *left = after(sl_pb_find(file, FILE_PACKAGE), symbol);
    struct sl_pb_span item;
    uint32_t number;
    if (!left || !*left)
        return false;
    while (sl_pb_next(&file, &number, &item)) {
        if (number == FILE_MESSAGE && message_has(item, left, 0))
            return true;
        if ((number == FILE_ENUM || number == FILE_SERVICE) && has_member(item, left))
            return true;
    }
    return false;
}

static struct sl_pb_span all_files(void)
{
    return (struct sl_pb_span){sl_proto_descriptors, sl_proto_descriptors_bytes};
}

static struct sl_pb_span find_file(const char *key, bool by_name)
{
    struct sl_pb_span set = all_files(), file;
    uint32_t number;
    if (!by_name && *key == '.')
        key++; /* a fully qualified name may start with a dot */
    while (sl_pb_next(&set, &number, &file))
        if (number == SET_FILE && (by_name ? equals(sl_pb_find(file, FILE_NAME), key) : file_has(file, key)))
            return file;
    return (struct sl_pb_span){NULL, 0};
}

struct reflection_answer { /* the parts a response may point to */
    reflection_response response;
    Grpc__Reflection__V1__FileDescriptorResponse files;
    Grpc__Reflection__V1__ListServiceResponse list;
    Grpc__Reflection__V1__ErrorResponse error;
    Grpc__Reflection__V1__ServiceResponse services[MAX_LISTED], *service_list[MAX_LISTED];
    char names[MAX_LISTED][96], sentence[200];
    ProtobufCBinaryData file;
};

static void list_services(struct reflection_answer *answer)
{
    struct sl_pb_span set = all_files(), file, item;
    uint32_t number;
    while (sl_pb_next(&set, &number, &file)) {
        struct sl_pb_span package = sl_pb_find(file, FILE_PACKAGE);
        while (sl_pb_next(&file, &number, &item)) {
            if (number != FILE_SERVICE)
                continue;
            size_t i = answer->list.n_service++;
            assert(i < MAX_LISTED); /* the descriptors are ours */
            struct sl_pb_span name = sl_pb_find(item, NAME);
            snprintf(answer->names[i], sizeof answer->names[i], "%.*s.%.*s", (int)package.bytes,
                     (const char *)package.data, (int)name.bytes, (const char *)name.data);
            grpc__reflection__v1__service_response__init(&answer->services[i]);
            answer->services[i].name = answer->names[i];
            answer->service_list[i] = &answer->services[i];
        }
    }
    answer->list.service = answer->service_list;
    answer->response.message_response_case = ANSWER(LIST_SERVICES_RESPONSE);
    answer->response.list_services_response = &answer->list;
}

static void refuse(struct reflection_answer *answer, int32_t code, const char *format, const char *name)
{
    snprintf(answer->sentence, sizeof answer->sentence, format, name);
    answer->error.error_code = code;
    answer->error.error_message = answer->sentence;
    answer->response.message_response_case = ANSWER(ERROR_RESPONSE);
    answer->response.error_response = &answer->error;
}

static void give_file(struct reflection_answer *answer, const char *key, bool by_name)
{
    struct sl_pb_span file = find_file(key, by_name);
    if (!file.data) {
        refuse(answer, CODE_NOT_FOUND,
               by_name ? "there is no file \"%.100s\" here" : "there is no symbol \"%.100s\" here", key);
        return;
    }
    answer->file.data = (uint8_t *)(uintptr_t)file.data; /* packing only reads it */
    answer->file.len = file.bytes;
    answer->files.n_file_descriptor_proto = 1;
    answer->files.file_descriptor_proto = &answer->file;
    answer->response.message_response_case = ANSWER(FILE_DESCRIPTOR_RESPONSE);
    answer->response.file_descriptor_response = &answer->files;
}

static void on_info(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_pb pb = {0};
    struct reflection_answer answer;
    (void)context;
    reflection_request *request = (void *)sl_pb_unpack(
        &pb, call, &grpc__reflection__v1__server_reflection_request__descriptor, message, bytes);
    if (!request)
        return;
    memset(&answer, 0, sizeof answer);
    grpc__reflection__v1__server_reflection_response__init(&answer.response);
    grpc__reflection__v1__file_descriptor_response__init(&answer.files);
    grpc__reflection__v1__list_service_response__init(&answer.list);
    grpc__reflection__v1__error_response__init(&answer.error);
    answer.response.valid_host = request->host;
    answer.response.original_request = request;
    switch (request->message_request_case) {
    case ASKED(LIST_SERVICES):
        list_services(&answer);
        break;
    case ASKED(FILE_BY_FILENAME):
        give_file(&answer, request->file_by_filename, true);
        break;
    case ASKED(FILE_CONTAINING_SYMBOL):
        give_file(&answer, request->file_containing_symbol, false);
        break;
    case ASKED(FILE_CONTAINING_EXTENSION):
    case ASKED(ALL_EXTENSION_NUMBERS_OF_TYPE):
        refuse(&answer, CODE_NOT_FOUND, "no message here has extensions%s", "");
        break;
    default:
        refuse(&answer, CODE_INVALID, "message_request is not set%s", "");
    }
    sl_status status = sl_pb_write(call, &answer.response.base);
    if (status != SL_OK && status != SL_E_CANCELLED)
        sl_rpc_finish(call, SL_E_EXHAUSTED, "no room for the reply; try again later");
    sl_pb_free(&pb);
}

uint32_t sl_reflection_methods(struct sl_rpc_method *methods)
{
    static const char *const paths[] = {
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    };
    for (uint32_t i = 0; i < 2; i++)
        methods[i] = (struct sl_rpc_method){.path = paths[i],
                                            .streaming = true,
                                            .on_message = on_info,
                                            .client_streaming = true,
                                            .place = SL_RPC_WATCH,
                                            .roles = SL_RPC_ALL};
    return 2;
}
