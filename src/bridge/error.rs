//! What an API call can fail with, and the status that goes with it.

use std::io;

use serde_json::{Value, json};

use super::answer::Answer;
use crate::client::{ClientError, ExitCode};
use crate::protocol::message::FailureCode;

/// A refusal or failure: a status, words for a person, and fields for the page.
#[derive(Debug)]
pub struct ApiError {
    pub status: u16,
    pub text: String,
    /// Further fields of the answer.
    pub data: Value,
}

impl ApiError {
    pub fn new(status: u16, text: impl Into<String>) -> ApiError {
        ApiError { status, text: text.into(), data: json!({}) }
    }

    pub fn bad(text: impl Into<String>) -> ApiError {
        ApiError::new(400, text)
    }

    pub fn conflict(text: impl Into<String>) -> ApiError {
        ApiError::new(409, text)
    }

    pub fn missing(text: impl Into<String>) -> ApiError {
        ApiError::new(404, text)
    }

    pub fn with(mut self, data: Value) -> ApiError {
        self.data = data;
        self
    }

    pub fn answer(&self) -> Answer {
        let mut data = self.data.clone();
        data["error"] = Value::String(self.text.clone());
        Answer::json(self.status, data)
    }
}

impl From<ClientError> for ApiError {
    fn from(error: ClientError) -> ApiError {
        ApiError::of(&error)
    }
}

impl ApiError {
    /// The client's error with its status.
    pub fn of(error: &ClientError) -> ApiError {
        if let ClientError::NoVaultKey { vault } = error {
            let text = "this is in a vault that is not open here: open it first, on the page or at /api/vault/open";
            return ApiError::new(423, text).with(json!({ "vault": vault }));
        }
        let status = match (error, error.exit_code()) {
            (ClientError::Failure { code, .. }, _) if *code == FailureCode::NotFound => 404,
            (_, ExitCode::NoConnection | ExitCode::Interrupted) => 503,
            (_, ExitCode::Refused) => 403,
            (_, ExitCode::Usage) => 400,
            (ClientError::Failure { .. } | ClientError::Channel { .. }, _) => 502,
            (_, ExitCode::Integrity) => 502,
            _ => 500,
        };
        ApiError::new(status, error.to_string())
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> ApiError {
        ApiError::new(500, error.to_string())
    }
}
