"""PyJWT, as it is: verifies tokens with the keys that the token service shows."""

import json
import ssl
import sys

import jwt


def main() -> None:
    base, bundle, issuer, *tokens = sys.argv[1:]
    keys = jwt.PyJWKClient(f"{base}/oauth2/jwks", ssl_context=ssl.create_default_context(cafile=bundle))
    said = []
    for token in tokens:
        try:
            claims = jwt.decode(
                token,
                keys.get_signing_key_from_jwt(token),
                algorithms=["ES256"],
                audience="reports",
                issuer=issuer,
                options={"require": ["exp", "iat", "sub", "jti"]},
            )
            said.append(
                {"header": jwt.get_unverified_header(token), "sub": claims["sub"], "scope": claims["scope"]}
            )
        except (jwt.InvalidTokenError, jwt.PyJWKClientError) as error:
            said.append({"error": type(error).__name__})
    print(json.dumps(said))


main()
