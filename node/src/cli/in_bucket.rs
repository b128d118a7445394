//! What verbs about one bucket have in common: the server, how to print, and the bucket.

use clap::Args;
use reqwest::Method;

use super::client::{Answer, Client, Connect, Output, OutputArgs, Request};

/// Arguments of a verb about one bucket.
#[derive(Args, Clone, Debug)]
pub(super) struct InBucket {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: OutputArgs,
    /// The bucket (class)
    pub(super) bucket: String,
}

impl InBucket {
    /// How results are printed.
    pub(super) fn output(&self) -> Output {
        self.output.output
    }

    /// Sends a request as who the arguments name.
    ///
    /// # Errors
    /// The failure, reported in the form that was asked for.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        request: Request,
    ) -> anyhow::Result<Answer> {
        let client = Client::connect(&self.connect).await?;
        self.send_by(&client, method, path, request).await
    }

    /// The same for root unless the arguments name somebody else.
    ///
    /// # Errors
    /// Those of [`Self::send`].
    pub(super) async fn send_as_root(
        &self,
        method: Method,
        path: &str,
        request: Request,
    ) -> anyhow::Result<Answer> {
        let client = Client::connect_as_root(&self.connect).await?;
        self.send_by(&client, method, path, request).await
    }

    async fn send_by(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        request: Request,
    ) -> anyhow::Result<Answer> {
        let answer = client.send(method, path, request).await;
        answer.map_err(|failure| failure.report(self.output()))
    }
}
