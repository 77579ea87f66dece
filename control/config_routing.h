// config_routing.h: the part of a configuration that says where mail goes: [[source]], [[pool]],
// [site], [[route]].
//
// Scope      These tables and their references to each other. Which transport a source may have is
//            config_network.h's.
// Threading  Any; no state.
// Failure    Errors go into the file's list.
#pragma once

#include "control/config_network.h"
#include "control/config_tables.h"

namespace control {

/// \param network  has read the ports
/// \param egress   transport of the source that is made up when there is none
void read_routing(const Tables& tables, schema::PolicyT& policy, NetworkReader& network,
                  schema::Transport egress);

} // namespace control
