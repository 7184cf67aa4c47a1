// A certified OpenID Connect provider that lets everybody in:   node provider.mjs PORT REDIRECT_URI
import { generateKeyPairSync } from "node:crypto";
import { Provider } from "oidc-provider";

const [port, redirectUri] = process.argv.slice(2);
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const key = { ...privateKey.export({ format: "jwk" }), kid: "one", use: "sig", alg: "RS256" };

const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys: [key] },
  clients: [{ client_id: "icehouse", client_secret: "client-secret", redirect_uris: [redirectUri] }],
  claims: { openid: ["sub"], profile: ["name", "groups"], email: ["email"] },
  conformIdTokenClaims: false,
  cookies: { keys: ["of the tests"] },
  findAccount: async (_, id) => ({
    accountId: id,
    claims: async () => ({ sub: id, name: `Real ${id}`, email: `${id}@example.org`, groups: ["dev"] }),
  }),
});
provider.listen(Number(port), "127.0.0.1", () => console.log("listening"));
