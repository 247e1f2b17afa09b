// SPDX-License-Identifier: MIT
#pragma once

#include "apps/guestio-blk/takeover/json_fields.h"
#include "apps/guestio-blk/takeover/message.h"
#include "guestio/vhost/session/session_state.h"

namespace guestio::app {

/// Adds the descriptors of a session to `message` and returns its JSON.
nlohmann::json to_json(vhost::SessionState state, TakeoverMessage& message);

/// The reverse. `fields` gets the errors of form; vhost::Session::restore() checks the meaning.
vhost::SessionState read_session(JsonFields fields);

}  // namespace guestio::app
