//! The HTTP server behind the front: tiny_http on a Unix socket in a folder that only this user can enter. It has
//! no deadline, no limit for a head, and its accept thread ends where descriptors run out; so it is given checked
//! requests only, every body in chunks (a body of known length that nobody reads would cost memory of that
//! length), and a new one is started where the old one has ended.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tiny_http::{Request, Server};

use crate::base::ids::{hex, random_array};

/// Threads that answer requests: their work is shallow.
const HANDLER_STACK_BYTES: usize = 512 * 1024;

type Handler = Arc<dyn Fn(Request) + Send + Sync>;

/// Where the front's requests go.
pub struct Inner {
    folder: PathBuf,
    handler: Handler,
    current: Mutex<Current>,
}

struct Current {
    server: Option<Arc<Server>>,
    number: u32,
}

impl Inner {
    pub fn start(handler: impl Fn(Request) + Send + Sync + 'static) -> io::Result<Inner> {
        let folder = std::env::temp_dir().join(format!("cyberbackup-{}", hex(&random_array::<8>())));
        DirBuilder::new().mode(0o700).create(&folder)?;
        let current = Mutex::new(Current { server: None, number: 0 });
        let inner = Inner { folder, handler: Arc::new(handler), current };
        inner.restart(0)?;
        Ok(inner)
    }

    /// A new connection to the server.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let number = self.current().number;
        match UnixStream::connect(self.socket(number)) {
            // Its accept thread has ended, and the socket with it.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
                let number = self.restart(number)?;
                UnixStream::connect(self.socket(number))
            }
            other => other,
        }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{number}"))
    }

    /// Puts a new server in the place of number `old`, if nobody has done so yet. Gives its number.
    fn restart(&self, old: u32) -> io::Result<u32> {
        let mut current = self.current();
        if current.number != old {
            return Ok(current.number);
        }
        let number = old + 1;
        let server = Server::http_unix(&self.socket(number)).map_err(io::Error::other)?;
        let server = Arc::new(server);
        let (serving, handler) = (server.clone(), self.handler.clone());
        thread::Builder::new().name("answers".into()).spawn(move || serve(&serving, &handler))?;
        if let Some(ended) = current.server.replace(server) {
            ended.unblock();
            log::warn!("the inner HTTP server had ended and was started anew");
        }
        let _ = std::fs::remove_file(self.socket(old));
        current.number = number;
        Ok(number)
    }
}

/// Gives each request a thread, until the server ends.
fn serve(server: &Server, handler: &Handler) {
    while let Ok(request) = server.recv() {
        let handler = handler.clone();
        let builder = thread::Builder::new().name("answer".into()).stack_size(HANDLER_STACK_BYTES);
        if let Err(error) = builder.spawn(move || handler(request)) {
            // The request is dropped with the closure: the front answers for it.
            log::warn!("no thread could be started for a request: {error}");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(server) = self.current().server.take() {
            server.unblock();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
