/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The NBD protocol on the wire: constants and packed structures, all integers big-endian.
 * Offsets, lengths and sizes are bytes. Source: doc/proto.md of the NBD project ("the protocol
 * document"), whose names these are. No code.
 */
#ifndef NBD_PROTOCOL_H
#define NBD_PROTOCOL_H

#include <stdint.h>

#define NBD_DEFAULT_PORT 10809 /* IANA; the daemon's own is 24111 */

/* ---- Handshake ("Newstyle negotiation") ---- */

#define NBD_MAGIC UINT64_C(0x4e42444d41474943)       /* "NBDMAGIC" */
#define NBD_IHAVEOPT UINT64_C(0x49484156454f5054)    /* "IHAVEOPT" */
#define NBD_REPLY_MAGIC UINT64_C(0x0003e889045565a9) /* option replies */

#define NBD_FLAG_FIXED_NEWSTYLE (1u << 0)
#define NBD_FLAG_NO_ZEROES (1u << 1)
#define NBD_FLAG_C_FIXED_NEWSTYLE (1u << 0)
#define NBD_FLAG_C_NO_ZEROES (1u << 1)

#define NBD_OPT_EXPORT_NAME 1
#define NBD_OPT_ABORT 2
#define NBD_OPT_LIST 3
#define NBD_OPT_PEEK_EXPORT 4
#define NBD_OPT_STARTTLS 5
#define NBD_OPT_INFO 6
#define NBD_OPT_GO 7
#define NBD_OPT_STRUCTURED_REPLY 8
#define NBD_OPT_LIST_META_CONTEXT 9
#define NBD_OPT_SET_META_CONTEXT 10
#define NBD_OPT_EXTENDED_HEADERS 11

#define NBD_REP_ACK 1u
#define NBD_REP_SERVER 2u
#define NBD_REP_INFO 3u
#define NBD_REP_META_CONTEXT 4u
#define NBD_REP_FLAG_ERROR (1u << 31)
#define NBD_REP_ERR_UNSUP (NBD_REP_FLAG_ERROR | 1u)
#define NBD_REP_ERR_POLICY (NBD_REP_FLAG_ERROR | 2u)
#define NBD_REP_ERR_INVALID (NBD_REP_FLAG_ERROR | 3u)
#define NBD_REP_ERR_PLATFORM (NBD_REP_FLAG_ERROR | 4u)
#define NBD_REP_ERR_TLS_REQD (NBD_REP_FLAG_ERROR | 5u)
#define NBD_REP_ERR_UNKNOWN (NBD_REP_FLAG_ERROR | 6u)
#define NBD_REP_ERR_SHUTDOWN (NBD_REP_FLAG_ERROR | 7u)
#define NBD_REP_ERR_BLOCK_SIZE_REQD (NBD_REP_FLAG_ERROR | 8u)
#define NBD_REP_ERR_TOO_BIG (NBD_REP_FLAG_ERROR | 9u)
#define NBD_REP_ERR_EXT_HEADER_REQD (NBD_REP_FLAG_ERROR | 10u)

#define NBD_INFO_EXPORT 0
#define NBD_INFO_NAME 1
#define NBD_INFO_DESCRIPTION 2
#define NBD_INFO_BLOCK_SIZE 3

#define NBD_MAX_STRING 4096u /* names, descriptions, contexts, error texts; bytes */

struct nbd_greeting {
    uint64_t magic, ihaveopt; /* NBD_MAGIC, NBD_IHAVEOPT */
    uint16_t flags;           /* NBD_FLAG_FIXED_NEWSTYLE ... */
} __attribute__((packed));

struct nbd_option {
    uint64_t ihaveopt;
    uint32_t option; /* NBD_OPT_* */
    uint32_t length; /* of the data that follows */
} __attribute__((packed));

struct nbd_option_reply {
    uint64_t magic;  /* NBD_REPLY_MAGIC */
    uint32_t option; /* the one that is answered */
    uint32_t type;   /* NBD_REP_* */
    uint32_t length; /* of the data that follows */
} __attribute__((packed));

/* Answer to EXPORT_NAME; without C_NO_ZEROES 124 zero bytes follow. */
struct nbd_export_name_reply {
    uint64_t size;
    uint16_t flags;
} __attribute__((packed));

struct nbd_info_export {
    uint16_t type;  /* NBD_INFO_EXPORT */
    uint64_t size;
    uint16_t flags; /* transmission flags */
} __attribute__((packed));

struct nbd_info_block_size {
    uint16_t type; /* NBD_INFO_BLOCK_SIZE */
    uint32_t minimum, preferred, maximum;
} __attribute__((packed));

/* ---- Transmission flags ---- */

#define NBD_FLAG_HAS_FLAGS (1u << 0)
#define NBD_FLAG_READ_ONLY (1u << 1)
#define NBD_FLAG_SEND_FLUSH (1u << 2)
#define NBD_FLAG_SEND_FUA (1u << 3)
#define NBD_FLAG_ROTATIONAL (1u << 4)
#define NBD_FLAG_SEND_TRIM (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES (1u << 6)
#define NBD_FLAG_SEND_DF (1u << 7)
#define NBD_FLAG_CAN_MULTI_CONN (1u << 8)
#define NBD_FLAG_SEND_RESIZE (1u << 9)
#define NBD_FLAG_SEND_CACHE (1u << 10)
#define NBD_FLAG_SEND_FAST_ZERO (1u << 11)
#define NBD_FLAG_BLOCK_STATUS_PAYLOAD (1u << 12)

/* ---- Requests ---- */

#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_EXTENDED_REQUEST_MAGIC 0x21e41c71u

#define NBD_CMD_READ 0
#define NBD_CMD_WRITE 1
#define NBD_CMD_DISC 2
#define NBD_CMD_FLUSH 3
#define NBD_CMD_TRIM 4
#define NBD_CMD_CACHE 5
#define NBD_CMD_WRITE_ZEROES 6
#define NBD_CMD_BLOCK_STATUS 7
#define NBD_CMD_RESIZE 8

#define NBD_CMD_FLAG_FUA (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE (1u << 1)
#define NBD_CMD_FLAG_DF (1u << 2)
#define NBD_CMD_FLAG_REQ_ONE (1u << 3)
#define NBD_CMD_FLAG_FAST_ZERO (1u << 4)
#define NBD_CMD_FLAG_PAYLOAD_LEN (1u << 5)

struct nbd_compact_request {
    uint32_t magic;       /* NBD_REQUEST_MAGIC */
    uint16_t flags, type; /* NBD_CMD_FLAG_*, NBD_CMD_* */
    uint64_t cookie;      /* the client's own: its reply has the same */
    uint64_t offset;
    uint32_t length;
} __attribute__((packed));

/* When EXTENDED_HEADERS was negotiated. */
struct nbd_extended_request {
    uint32_t magic; /* NBD_EXTENDED_REQUEST_MAGIC */
    uint16_t flags, type;
    uint64_t cookie, offset, length;
} __attribute__((packed));

/* ---- Replies ---- */

#define NBD_SIMPLE_REPLY_MAGIC 0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
#define NBD_EXTENDED_REPLY_MAGIC 0x6e8a278cu

#define NBD_REPLY_FLAG_DONE (1u << 0)

#define NBD_REPLY_TYPE_NONE 0
#define NBD_REPLY_TYPE_OFFSET_DATA 1
#define NBD_REPLY_TYPE_OFFSET_HOLE 2
#define NBD_REPLY_TYPE_BLOCK_STATUS 5
#define NBD_REPLY_TYPE_BLOCK_STATUS_EXT 6
#define NBD_REPLY_TYPE_ERROR 0x8001
#define NBD_REPLY_TYPE_ERROR_OFFSET 0x8002

struct nbd_simple_reply {
    uint32_t magic; /* NBD_SIMPLE_REPLY_MAGIC */
    uint32_t error; /* NBD_SUCCESS, NBD_E* */
    uint64_t cookie;
} __attribute__((packed));

struct nbd_structured_reply {
    uint32_t magic;       /* NBD_STRUCTURED_REPLY_MAGIC */
    uint16_t flags, type; /* NBD_REPLY_FLAG_*, NBD_REPLY_TYPE_* */
    uint64_t cookie;
    uint32_t length;      /* of the payload that follows */
} __attribute__((packed));

struct nbd_extended_reply {
    uint32_t magic; /* NBD_EXTENDED_REPLY_MAGIC */
    uint16_t flags, type;
    uint64_t cookie;
    uint64_t offset; /* of the request */
    uint64_t length; /* of the payload that follows */
} __attribute__((packed));

/* Error values on the wire; no other may be sent. */
#define NBD_SUCCESS 0u
#define NBD_EPERM 1u
#define NBD_EIO 5u
#define NBD_ENOMEM 12u
#define NBD_EINVAL 22u
#define NBD_ENOSPC 28u
#define NBD_EOVERFLOW 75u
#define NBD_ENOTSUP 95u
#define NBD_ESHUTDOWN 108u

#endif
