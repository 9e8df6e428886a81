//! What the client does with whatever its user, its files and its server put before it.

mod changing_files;
mod command_line;
mod comparing;
mod configuration;
mod connecting;
mod finding;
mod interruption;
mod json;
mod looking;
mod restoring;
mod sources;
mod state_folder;
