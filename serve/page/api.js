// The service's API as the page uses it: the token, one shape of error, patience with a busy service.

const TOKEN = "o2n-token"; // in sessionStorage: gone with the tab, never in a URL
const PATIENCE = 30; // how often a picture is sent anew while the service says that it is busy

export class ApiError extends Error {
  constructor(status, message, retryAfter = 1) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

let askForToken; // async (why) => token
let asking = null; // many requests are refused at once, the token is asked for once

export function onTokenNeeded(ask) {
  askForToken = ask;
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;
export const forgetToken = () => sessionStorage.removeItem(TOKEN);

/** The JSON that the service answers with; asks for a token where it is told that one is needed. */
export async function call(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    try {
      return await once(path, options, token);
    } catch (error) {
      if (error.status !== 401) throw error;
      if (token === sessionStorage.getItem(TOKEN)) {
        asking ??= askForToken(token ? error.message : "").then((given) => sessionStorage.setItem(TOKEN, given));
        await asking.finally(() => (asking = null));
      }
    }
  }
}

/** `call`, again and again while the service is busy: only for what has no side effect. */
export async function callPatiently(path, options, onWait) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call(path, options);
    } catch (error) {
      if (![429, 503].includes(error.status) || attempt === PATIENCE) throw error;
      onWait();
      const seconds = Math.min(error.retryAfter, 30) * (1 + Math.random() / 2); // or all come back at once
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      options.signal?.throwIfAborted();
    }
  }
}

async function once(path, options, token) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the service cannot be reached, or the file was changed after it was chosen: try again");
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  throw new ApiError(
    response.status,
    body?.error?.message ?? `the service answered with status ${response.status} and no reason`,
    Number(response.headers.get("Retry-After")) || 1,
  );
}
