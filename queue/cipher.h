// cipher.h: AES-256-GCM over one record's payload.
//
// Scope      Encrypting and decrypting, all at once or piece by piece, under a segment's key. Every record is
//            tied to its pool, shard, segment, offset, header and message: copied anywhere else it does not
//            open. Where keys come from is keyring.h's.
// Owns       OpenSSL's two contexts, one for each direction, with the last key set up in each.
// Threading  Bound to one shard; a record that is being encrypted and one that is being decrypted do not
//            disturb each other.
// Failure    A tag that does not fit: false. OpenSSL itself only fails for want of memory, which ends the
//            process, as everywhere.
//
// The nonce is the record's LSN and its offset. A key belongs to one generation of one segment, in which no
// place is written twice and no LSN comes twice, so that no nonce does either; after a crash a segment is
// never continued.
#pragma once

#include "queue/codec.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

struct evp_cipher_ctx_st;

namespace queue {

/// Of one generation of one segment.
using DataKey = std::array<std::byte, 32>;

struct CipherContextFree {
    void operator()(evp_cipher_ctx_st* context) const noexcept;
};
using CipherContext = std::unique_ptr<evp_cipher_ctx_st, CipherContextFree>;

class RecordCipher {
public:
    RecordCipher(const PoolId& pool, std::uint32_t shard);

    /// A record and where it lies.
    struct Where {
        const DataKey& key;
        std::uint64_t segment_seq = 0;
        std::uint32_t offset = 0;
        const RecordHeader& header; // its checksum aside
    };

    void begin_seal(const Where& where) noexcept;
    /// Encrypts the next part of the payload; `to` may be where it lies.
    void seal(std::span<const std::byte> from, std::byte* to) noexcept;
    void end_seal(std::span<std::byte, record_tag_bytes> tag) noexcept;

    void begin_open(const Where& where) noexcept;
    /// Decrypts the next part. Nothing is certain about it before end_open() has said so.
    void open(std::span<const std::byte> from, std::byte* to) noexcept;
    [[nodiscard]] bool end_open(std::span<const std::byte, record_tag_bytes> tag) noexcept;

    /// All of it, in place.
    /// \param stored  payload and tag
    void seal_record(const Where& where, std::span<std::byte> stored) noexcept;
    [[nodiscard]] bool open_record(const Where& where, std::span<std::byte> stored) noexcept;

private:
    struct Direction {
        CipherContext context;
        DataKey key{};
        bool has_key = false;
    };
    void begin(Direction& direction, const Where& where, bool seals) noexcept;

    PoolId pool_;
    std::uint32_t shard_;
    Direction sealing_;
    Direction opening_;
};

} // namespace queue
