//! The whole surface on one screen.

mod accept;
mod change;
mod cluster;
mod command;
mod declare;
mod events;
mod feed;
mod function;
mod health;
mod logs;
mod manifest;
mod process;
mod start;
mod stop;
mod story;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::state::App;
use crate::{auth, limits, metrics, openapi};

/// Every route and the document that describes them. What is not among the open routes needs a token.
pub(crate) fn surface() -> (Router<App>, utoipa::openapi::OpenApi, Router<App>) {
    let (closed, mut document) = OpenApiRouter::with_openapi(openapi::Base::openapi())
        .routes(routes!(function::list))
        .routes(routes!(declare::declare, function::read, stop::delete))
        .routes(routes!(logs::read_build))
        .routes(routes!(start::start))
        .routes(routes!(process::list))
        .routes(routes!(process::read))
        .routes(routes!(change::restart))
        .routes(routes!(change::update))
        .routes(routes!(change::scale))
        .routes(routes!(stop::kill))
        .routes(routes!(events::list))
        .routes(routes!(logs::read))
        .routes(routes!(story::read))
        .routes(routes!(manifest::read))
        .routes(routes!(command::read))
        .routes(routes!(stop::cancel))
        .routes(routes!(stop::requeue))
        .routes(routes!(cluster::list))
        .routes(routes!(cluster::read))
        .routes(routes!(feed::follow))
        .routes(routes!(health::metrics))
        .split_for_parts();
    let (open, of_open) = OpenApiRouter::new()
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .split_for_parts();
    document.merge(of_open);
    (closed, document, open)
}

/// The router: routes, and what holds for all of them, from the inside out.
pub fn router(app: App) -> Router {
    let (closed, document, open) = surface();
    closed
        .fallback(limits::no_route)
        .method_not_allowed_fallback(limits::wrong_method)
        .layer(from_fn_with_state(app.clone(), auth::authenticate))
        .merge(open.method_not_allowed_fallback(limits::wrong_method))
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document))
        // Every body is read by `extract::read_body`, which has limits of its own.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn(limits::timeout))
        .layer(CatchPanicLayer::custom(limits::panicked))
        .layer(CompressionLayer::new().compress_when(limits::compressible()))
        .layer(from_fn(metrics::record))
        .layer(TraceLayer::new_for_http())
        .with_state(app)
}
