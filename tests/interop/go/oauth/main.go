// golang.org/x/oauth2 as it is: gets a token of its own over mutual TLS, keeps it, and sends it along.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

func main() {
	clientID, pem, bundle, base := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, client(pem, bundle))
	said := map[string]any{}
	for _, style := range []oauth2.AuthStyle{oauth2.AuthStyleAutoDetect, oauth2.AuthStyleInParams, oauth2.AuthStyleInHeader} {
		config := configured(clientID, base, "reports", style)
		token, err := config.Token(ctx)
		must(err)
		said[fmt.Sprintf("style %d", style)] = token.Valid() && token.TokenType == "Bearer"
	}
	config := configured(clientID, base, "reports", oauth2.AuthStyleInParams)
	shown := map[string]int{}
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		shown[request.Header.Get("Authorization")]++
	}))
	defer api.Close()
	calling := config.Client(ctx)
	for range 3 {
		answer, err := calling.Get(api.URL)
		must(err)
		answer.Body.Close()
	}
	said["shown"] = len(shown)
	_, err := configured(clientID, base, "ledger", oauth2.AuthStyleInParams).Token(ctx)
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		said["refused"] = []string{refused.ErrorCode, refused.ErrorDescription[:7]}
	}
	must(json.NewEncoder(os.Stdout).Encode(said))
}

func configured(clientID, base, audience string, style oauth2.AuthStyle) *clientcredentials.Config {
	return &clientcredentials.Config{
		ClientID:       clientID,
		TokenURL:       base + "/oauth2/token",
		Scopes:         []string{"report:read"},
		EndpointParams: url.Values{"audience": {audience}},
		AuthStyle:      style,
	}
}

func client(pem, bundle string) *http.Client {
	own, err := tls.LoadX509KeyPair(pem, pem)
	must(err)
	authorities, err := os.ReadFile(bundle)
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authorities)
	settings := &tls.Config{Certificates: []tls.Certificate{own}, RootCAs: roots}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: settings}, Timeout: 30 * time.Second}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
