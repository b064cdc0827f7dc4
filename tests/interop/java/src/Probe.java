import io.spiffe.provider.SpiffeSslContextFactory;
import io.spiffe.provider.SpiffeSslContextFactory.SslContextOptions;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.X509Context;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import javax.net.ssl.SSLSocket;

/**
 * What java-spiffe asks of a Workload API, as JSON lines on stdout.
 *
 * <pre>
 * Probe SOCKET x509 N           N different leaf certificates, as they are pushed
 * Probe SOCKET jwt AUDIENCE     one JWT-SVID, validated by the endpoint and by java-spiffe itself
 * Probe SOCKET call ID HOST PORT  one mTLS call; what the server says
 * </pre>
 */
public final class Probe {
    public static void main(String[] words) throws Exception {
        String address = "unix:" + words[0];
        var options = DefaultWorkloadApiClient.ClientOptions.builder().spiffeSocketPath(address).build();
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient(options)) {
            switch (words[1]) {
                case "x509" -> watch(client, Integer.parseInt(words[2]));
                case "jwt" -> jwt(client, words[2]);
                case "call" -> call(client, words[2], words[3], Integer.parseInt(words[4]));
                default -> throw new IllegalArgumentException(words[1]);
            }
        }
        System.exit(0);
    }

    private static void watch(WorkloadApiClient client, int wanted) throws InterruptedException {
        var left = new CountDownLatch(wanted);
        client.watchX509Context(new Watcher<X509Context>() {
            private String last = "";

            @Override
            public void onUpdate(X509Context found) {
                X509Svid svid = found.getDefaultSvid();
                String serial = svid.getLeaf().getSerialNumber().toString();
                if (!serial.equals(last)) {
                    last = serial;
                    say("{\"id\": \"%s\", \"serial\": \"%s\", \"hint\": \"%s\", \"svids\": %d}".formatted(
                            svid.getSpiffeId(), serial, svid.getHint(), found.getX509Svids().size()));
                    left.countDown();
                }
            }

            @Override
            public void onError(Throwable error) {
                System.err.println(error);
            }
        });
        left.await();
    }

    private static void jwt(WorkloadApiClient client, String audience) throws Exception {
        JwtSvid svid = client.fetchJwtSvid(audience);
        JwtSvid remote = client.validateJwtSvid(svid.getToken(), audience);
        JwtSvid local = JwtSvid.parseAndValidate(svid.getToken(), client.fetchJwtBundles(), Set.of(audience));
        say("{\"id\": \"%s\", \"remote\": \"%s\", \"local\": \"%s\"}".formatted(
                svid.getSpiffeId(), remote.getSpiffeId(), local.getSpiffeId()));
    }

    private static void call(WorkloadApiClient client, String server, String host, int port) throws Exception {
        var source = DefaultX509Source.newSource(
                DefaultX509Source.X509SourceOptions.builder().workloadApiClient(client).build());
        var context = SpiffeSslContextFactory.getSslContext(SslContextOptions.builder()
                .x509Source(source)
                .acceptedSpiffeIdsSupplier(() -> Set.of(SpiffeId.parse(server)))
                .build());
        try (SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket(host, port)) {
            String heard = new String(socket.getInputStream().readAllBytes());
            say("{\"heard\": \"%s\"}".formatted(heard));
        }
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
