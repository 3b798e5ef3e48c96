//! wharf takes software from `git push` to a healthy production service.

fn main() {}
