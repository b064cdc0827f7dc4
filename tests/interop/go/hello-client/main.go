// The client of the Go walk-through that Vestibule was asked to run; see ../hello-server for what was corrected.
// The test puts its own socket and address in place of the constants.
package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	socketPath = "/tmp/spire/socket/agent.sock"
	serverURL  = "https://localhost:8443/hello"
	serverID   = "spiffe://example.org/server"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	svidSource, err := workloadapi.NewX509Source(
		ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+socketPath)))
	if err != nil {
		log.Fatalf("Unable to create X509Source: %v", err)
	}
	defer svidSource.Close()

	expected := spiffeid.RequireFromString(serverID)
	tlsConfig := tlsconfig.MTLSClientConfig(svidSource, svidSource, tlsconfig.AuthorizeID(expected))
	log.Printf("Client TLS config configured. Expecting server: %s", serverID)

	httpClient := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:       tlsConfig,
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			ResponseHeaderTimeout: 5 * time.Second,
			MaxIdleConns:          100,
			IdleConnTimeout:       90 * time.Second,
		},
		Timeout: 15 * time.Second,
	}

	log.Printf("Making request to %s", serverURL)
	resp, err := httpClient.Get(serverURL)
	if err != nil {
		log.Fatalf("Failed to make request: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatalf("Failed to read response body: %v", err)
	}
	log.Printf("Server responded with status %d: %s", resp.StatusCode, string(body))
}
