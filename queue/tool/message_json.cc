#include "queue/tool/message_json.h"

#include "queue/tool/opened_pool.h"

#include <nlohmann/json.hpp>

namespace queue::tool {
namespace {

using Json = nlohmann::ordered_json;

void put(Json& to, const char* name, std::string_view value) {
    if (!value.empty()) to[name] = std::string{value};
}

[[nodiscard]] Json notify_json(std::uint8_t bits) {
    Json words = Json::array();
    for (const auto& [bit, word] :
         {std::pair{notify_never, "NEVER"}, std::pair{notify_success, "SUCCESS"},
          std::pair{notify_failure, "FAILURE"}, std::pair{notify_delay, "DELAY"}}) {
        if ((bits & bit) != 0) words.push_back(word);
    }
    return words;
}

[[nodiscard]] Json recipients_json(const Envelope& envelope, const StoredMessage& stored) {
    Json list = Json::array();
    for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
        const Envelope::Recipient recipient = envelope.recipient(i);
        RecipientStatus status;
        if (stored.recipients.size() == envelope.recipient_count()) status = stored.recipients[i];
        Json row{{"address", std::string{recipient.address}},
                 {"state", std::string{name_of(status.state)}},
                 {"attempts", status.attempts},
                 {"last_code", status.last_code}};
        if (recipient.notify != notify_absent) row["notify"] = notify_json(recipient.notify);
        put(row, "orcpt", recipient.orcpt);
        list.push_back(std::move(row));
    }
    return list;
}

[[nodiscard]] std::string_view name_of_body(BodyKind body) noexcept {
    switch (body) {
    case BodyKind::seven_bit:
        return "7BIT";
    case BodyKind::eight_bit_mime:
        return "8BITMIME";
    case BodyKind::binary_mime:
        return "BINARYMIME";
    }
    return "7BIT";
}

} // namespace

Json message_json(MessageId id, const StoredMessage& stored, const ReadMessage& message,
                  bool queued) {
    Json json{{"id", id.to_string()},
              {"queued", queued},
              {"ended", stored.refused ? "refused"
                        : stored.done  ? "done"
                                       : ""},
              {"complete", message.good()}};
    if (!stored.finished()) json.erase("ended");
    put(json, "problem", message.problem);
    if (message.envelope_good) {
        const Envelope& envelope = message.envelope;
        json["sender"] = std::string{envelope.sender()};
        json["recipients"] = recipients_json(envelope, stored);
        put(json, "tenant", envelope.tenant());
        put(json, "account", envelope.account());
        put(json, "campaign", envelope.campaign());
        put(json, "source", envelope.source());
        put(json, "session", envelope.session());
        put(json, "envid", envelope.envid());
        if (envelope.dsn_return != DsnReturn::unspecified)
            json["ret"] = envelope.dsn_return == DsnReturn::full ? "FULL" : "HDRS";
        json["body"] = std::string{name_of_body(envelope.body)};
        json["smtputf8"] = envelope.smtputf8;
        json["client"] = envelope.client.to_string();
        json["client_tls"] = envelope.client_tls;
        json["arrival"] = utc(envelope.arrival);
        json["expiry"] = utc(envelope.expiry);
    }
    put(json, "due", utc(stored.status.due));
    json["rounds"] = stored.status.attempts;
    put(json, "last_error", stored.last_error);
    json["delay_notified"] =
        stored.status.delay_notified || (message.envelope_good && message.envelope.delay_notified);
    json["content_bytes"] = message.prefix.content_bytes;
    if (stored.record) {
        json["place"] = {{"slot", stored.record->place.slot},
                         {"offset", stored.record->place.offset},
                         {"segment", stored.record->segment_seq}};
    }
    return json;
}

std::string dump(const Json& json) {
    return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

} // namespace queue::tool
