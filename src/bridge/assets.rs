//! The page: compiled in, or read from a folder while it is being worked on.

use std::path::Path;

use super::answer::{Answer, JSON};
use super::error::ApiError;
use super::routes::{Call, Reply};

/// How much of a file of `--static-dir` is served.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        /// The files of `static/`.
        const ASSETS: &[(&str, &[u8])] =
            &[$(($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/static/", $name)))),*];
    };
}

assets![
    "api.js",
    "app.js",
    "base.css",
    "chart.js",
    "connection.js",
    "dashboard.css",
    "dashboard.html",
    "dashboard.js",
    "dialogs.js",
    "dom.js",
    "format.js",
    "history.js",
    "hosts.js",
    "icon.svg",
    "index.html",
    "job.js",
    "live.js",
    "log.js",
    "parts.css",
    "pick.js",
    "rows.js",
    "settings.js",
    "source.js",
    "statistics.js",
    "tree.js",
    "upload.js",
    "vault.js",
];

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "json" | "webmanifest" => JSON,
        _ => "application/octet-stream",
    }
}

/// What has a page made of these files.
pub trait Page {
    /// The file behind `/`.
    const FIRST: &'static str;
    /// What the page asks, for programs.
    const OPENAPI: &'static str;

    /// Where the files are read in the place of what is compiled in.
    fn folder(&self) -> Option<&Path>;
}

pub fn page<A: Page>(call: &mut Call<'_, A>) -> Result<Reply, ApiError> {
    serve(call, A::FIRST)
}

pub fn icon<A: Page>(call: &mut Call<'_, A>) -> Result<Reply, ApiError> {
    serve(call, "icon.svg")
}

pub fn part<A: Page>(call: &mut Call<'_, A>) -> Result<Reply, ApiError> {
    let name = call.part(0)?.to_string();
    serve(call, &name)
}

/// The page's API for programs.
pub fn openapi<A: Page>(_: &mut Call<'_, A>) -> Result<Reply, ApiError> {
    Ok(Reply::Answer(Answer::content(JSON, A::OPENAPI.as_bytes().to_vec())))
}

fn serve<A: Page>(call: &Call<'_, A>, name: &str) -> Result<Reply, ApiError> {
    let missing = || ApiError::missing("the page has no such part");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.starts_with('.') || !name.bytes().all(is_plain) {
        return Err(missing());
    }
    let bytes = match call.app.folder() {
        Some(folder) => read(&folder.join(name)).ok_or_else(missing)?,
        None => {
            ASSETS.iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes.to_vec()).ok_or_else(missing)?
        }
    };
    Ok(Reply::Answer(Answer::content(content_type(name), bytes)))
}

fn read(file: &Path) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).ok()?;
    opened.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_compiled_in() {
        let folder = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("static")).unwrap();
        let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        let mut known: Vec<&str> = ASSETS.iter().map(|(name, _)| *name).collect();
        known.sort();
        assert_eq!(names, known);
    }
}
