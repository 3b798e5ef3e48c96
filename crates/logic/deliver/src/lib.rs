//! Blue-green, canary and sequential analysis, as pure functions.
