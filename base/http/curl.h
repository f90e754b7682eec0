/* libcurl, the one place that knows it: opened when an option needs it, so that a node without that option needs no libcurl on its
 * machine (and an image no libcurl in it). Its functions are pointers of one table; types and constants are its own header's. */
#ifndef SL_BASE_HTTP_CURL_H
#define SL_BASE_HTTP_CURL_H

#include "base/status.h"
#include <curl/curl.h>

struct sl_curl {
    CURL *(*easy_init)(void);
    CURLcode (*easy_setopt)(CURL *easy, CURLoption option, ...);
    CURLcode (*easy_getinfo)(CURL *easy, CURLINFO info, ...);
    CURLcode (*easy_perform)(CURL *easy);
    void (*easy_reset)(CURL *easy);
    void (*easy_cleanup)(CURL *easy);
    const char *(*easy_strerror)(CURLcode code);
    struct curl_slist *(*slist_append)(struct curl_slist *list, const char *line);
    void (*slist_free_all)(struct curl_slist *list);
    CURLM *(*multi_init)(void);
    CURLMcode (*multi_setopt)(CURLM *multi, CURLMoption option, ...);
    CURLMcode (*multi_assign)(CURLM *multi, curl_socket_t fd, void *user);
    CURLMcode (*multi_add_handle)(CURLM *multi, CURL *easy);
    CURLMcode (*multi_remove_handle)(CURLM *multi, CURL *easy);
    CURLMsg *(*multi_info_read)(CURLM *multi, int *left);
    CURLMcode (*multi_socket_action)(CURLM *multi, curl_socket_t fd, int events, int *running);
    CURLMcode (*multi_cleanup)(CURLM *multi);
};

/* The table, which stays for the life of the process. SL_E_UNAVAILABLE: there is no libcurl of version 4's interface, or one that
 * lacks something; the sentence names what wanted it (an option). Any thread. */
sl_status sl_curl_open(const struct sl_curl **curl, const char *wanted_by, struct sl_err *err);
/* The same of another file, for tests of what is said when it is missing; not kept. */
sl_status sl_curl_open_file(struct sl_curl *curl, const char *file, const char *wanted_by,
                            struct sl_err *err);

#endif
