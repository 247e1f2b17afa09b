// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/vhost/session/session_state.h"
#include "takeover/json_fields.h"
#include "takeover/message.h"

namespace guestio::app {

/// A session as a part of `parcel`, which gets its descriptors.
nlohmann::json to_json(vhost::SessionState state, TakeoverMessage& message);

/// The same backwards. What makes no sense is complained about by `fields`; what sense it makes to
/// a session is for vhost::Session::restore() to say.
vhost::SessionState read_session(JsonFields fields);

}  // namespace guestio::app
