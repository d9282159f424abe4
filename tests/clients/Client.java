// Asks by HttpURLConnection and by java.net.http. Which family comes first is for java.net.preferIPv6Addresses to say, and
// java.net.preferIPv4Stack leaves no other.
//
// Usage: java Client.java HOST PORT PATH any|4|6 (the family is given by properties). Prints `== LIBRARY STATUS` and the body.

import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;

public class Client {
    public static void main(String[] words) throws Exception {
        if (words.length != 4) {
            System.err.println("usage: Client HOST PORT PATH any|4|6");
            System.exit(2);
        }
        URI uri = URI.create("http://" + words[0] + (words[1].equals("80") ? "" : ":" + words[1]) + words[2]);

        HttpURLConnection connection = (HttpURLConnection) uri.toURL().openConnection();
        connection.setConnectTimeout(5000);
        connection.setReadTimeout(5000);
        try (InputStream body = connection.getInputStream()) {
            String text = new String(body.readAllBytes(), StandardCharsets.UTF_8);
            System.out.printf("== HttpURLConnection %d%n%s%n", connection.getResponseCode(), text);
        }

        HttpClient client = HttpClient.newBuilder()
                .version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(5)).build();
        HttpRequest request = HttpRequest.newBuilder(uri).timeout(Duration.ofSeconds(5)).build();
        HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
        System.out.printf("== HttpClient %d%n%s%n", answer.statusCode(), answer.body());
    }
}
