// Everything that go-spiffe asks of a Workload API, as JSON lines on stdout: what a test watches.
//
//	watcher SOCKET x509          every X.509 context that is pushed, until stdin ends
//	watcher SOCKET jwt AUDIENCE  one JWT-SVID, validated by the endpoint and by go-spiffe itself
//	watcher SOCKET bundles       the X.509 and JWT bundles, once
//	watcher SOCKET serve ID      an mTLS server that says who called, on a port it prints, until stdin ends
//	watcher SOCKET call ID ADDR N  N mTLS calls, each on a connection of its own
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func say(values map[string]any) {
	text, err := json.Marshal(values)
	check(err)
	fmt.Println(string(text))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type watcher struct{}

func (watcher) OnX509ContextUpdate(found *workloadapi.X509Context) {
	svids := []map[string]any{}
	for _, each := range found.SVIDs {
		svids = append(svids, map[string]any{
			"id": each.ID.String(), "hint": each.Hint, "serial": each.Certificates[0].SerialNumber.String(),
			"chain": len(each.Certificates),
		})
	}
	authorities := map[string]int{}
	for _, bundle := range found.Bundles.Bundles() {
		authorities[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	say(map[string]any{"svids": svids, "authorities": authorities})
}

func (watcher) OnX509ContextWatchError(err error) {
	say(map[string]any{"error": err.Error()})
}

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	address, words := workloadapi.WithAddr("unix://"+os.Args[1]), os.Args[2:]
	client, err := workloadapi.New(ctx, address)
	check(err)
	defer client.Close()
	switch words[0] {
	case "x509":
		go func() {
			io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
		client.WatchX509Context(ctx, watcher{})
	case "jwt":
		jwt(ctx, client, words[1])
	case "bundles":
		bundles(ctx, client)
	case "serve":
		serve(ctx, address, words[1])
	case "call":
		times, err := strconv.Atoi(words[3])
		check(err)
		call(ctx, address, words[1], words[2], times)
	}
}

func jwt(ctx context.Context, client *workloadapi.Client, audience string) {
	svid, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	check(err)
	remote, err := client.ValidateJWTSVID(ctx, svid.Marshal(), audience)
	check(err)
	found, err := client.FetchJWTBundles(ctx)
	check(err)
	local, err := jwtsvid.ParseAndValidate(svid.Marshal(), jwtbundle.NewSet(found.Bundles()...), []string{audience})
	check(err)
	_, wrong := jwtsvid.ParseAndValidate(svid.Marshal(), found, []string{audience + "-not"})
	say(map[string]any{
		"id": svid.ID.String(), "remote": remote.ID.String(), "local": local.ID.String(),
		"lifetime": time.Until(svid.Expiry).Seconds(), "wrong_audience_refused": wrong != nil,
	})
}

func bundles(ctx context.Context, client *workloadapi.Client) {
	x509, err := client.FetchX509Bundles(ctx)
	check(err)
	jwts, err := client.FetchJWTBundles(ctx)
	check(err)
	counts := map[string]any{}
	for _, each := range x509.Bundles() {
		counts["x509:"+each.TrustDomain().Name()] = len(each.X509Authorities())
	}
	for _, each := range jwts.Bundles() {
		counts["jwt:"+each.TrustDomain().Name()] = len(each.JWTAuthorities())
	}
	say(counts)
}

func serve(ctx context.Context, address workloadapi.ClientOption, permitted string) {
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(address))
	check(err)
	id := spiffeid.RequireFromString(permitted)
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(id))
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	check(err)
	say(map[string]any{"address": listener.Addr().String()})
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go greet(connection.(*tls.Conn))
		}
	}()
	io.Copy(io.Discard, os.Stdin)
}

func greet(connection *tls.Conn) {
	defer connection.Close()
	if connection.Handshake() != nil {
		return
	}
	id, err := x509svid.IDFromCert(connection.ConnectionState().PeerCertificates[0])
	if err == nil {
		fmt.Fprint(connection, id.String())
	}
}

func call(ctx context.Context, address workloadapi.ClientOption, server string, target string, times int) {
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(address))
	check(err)
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(spiffeid.RequireFromString(server)))
	serials := map[string]bool{}
	for range times {
		connection, err := tls.Dial("tcp", target, config)
		check(err)
		heard, err := io.ReadAll(connection)
		check(err)
		serial := connection.ConnectionState().PeerCertificates[0].SerialNumber.String()
		if !serials[serial] {
			serials[serial] = true
			say(map[string]any{"heard": string(heard), "serial": serial})
		}
		connection.Close()
	}
}
