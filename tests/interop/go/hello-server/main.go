// The server of the Go walk-through that Vestibule was asked to run: mTLS with go-spiffe, one permitted client.
//
// It differs from the text only where that uses names that go-spiffe v2 does not have: WithSocketPath (WithClientOptions
// and WithAddr), MTLSClientServer (MTLSServerConfig), AuthorizeID with a string (a parsed ID),
// tlsconfig.ExtractSPIFFEIDFromCert (x509svid.IDFromCert), RequireAndVerifyClientCert (which would make Go look for the
// client's CA among the machine's own: RequireAnyClientCert is set by MTLSServerConfig, and go-spiffe verifies).
// The test puts its own socket and port in place of the two constants.
package main

import (
	"context"
	"log"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	socketPath = "/tmp/spire/socket/agent.sock"
	serverPort = ":8443"
	clientID   = "spiffe://example.org/client"
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

	permitted := spiffeid.RequireFromString(clientID)
	tlsConfig := tlsconfig.MTLSServerConfig(svidSource, svidSource, tlsconfig.AuthorizeID(permitted))
	log.Printf("Server TLS config configured. Expecting client: %s", clientID)

	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			peerID, err := x509svid.IDFromCert(r.TLS.PeerCertificates[0])
			if err == nil && peerID.String() == clientID {
				log.Printf("Received request from authenticated client: %s", peerID)
				w.WriteHeader(http.StatusOK)
				w.Write([]byte("Hello, authenticated client!"))
				return
			}
		}
		log.Printf("Received unauthenticated or unauthorized request.")
		w.WriteHeader(http.StatusUnauthorized)
		w.Write([]byte("Unauthorized access"))
	})

	server := &http.Server{
		Addr:         serverPort,
		Handler:      mux,
		TLSConfig:    tlsConfig,
		ReadTimeout:  5 * time.Second,
		WriteTimeout: 10 * time.Second,
		IdleTimeout:  15 * time.Second,
	}
	log.Printf("Server listening on %s", serverPort)
	if err := server.ListenAndServeTLS("", ""); err != nil && err != http.ErrServerClosed {
		log.Fatalf("Server failed: %v", err)
	}
}
