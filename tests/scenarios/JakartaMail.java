// Sends messages with Jakarta Mail, all over one connection.
//
// java JakartaMail.java PORT HELO MODE [USER PASSWORD], where MODE is none, starttls or implicit, and on standard
// input a line for each message: its file, the sender and the recipients, with tabs between them.

import jakarta.mail.Session;
import jakarta.mail.Transport;
import jakarta.mail.internet.InternetAddress;
import jakarta.mail.internet.MimeMessage;
import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Properties;

public class JakartaMail {
  public static void main(String[] arguments) throws Exception {
    Properties properties = new Properties();
    properties.put("mail.smtp.localhost", arguments[1]);
    boolean login = arguments.length > 3;
    properties.put("mail.smtp.auth", String.valueOf(login));
    properties.put("mail.smtp.starttls.required", String.valueOf(arguments[2].equals("starttls")));
    properties.put("mail.smtp.ssl.enable", String.valueOf(arguments[2].equals("implicit")));
    properties.put("mail.smtp.ssl.trust", "127.0.0.1");
    properties.put("mail.smtp.ssl.checkserveridentity", "false");
    properties.put("mail.mime.allowutf8", "true");
    Session session = Session.getInstance(properties);
    BufferedReader orders =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    try (Transport transport = session.getTransport("smtp")) {
      String user = login ? arguments[3] : null;
      String password = login ? arguments[4] : null;
      transport.connect("127.0.0.1", Integer.parseInt(arguments[0]), user, password);
      for (String order = orders.readLine(); order != null; order = orders.readLine()) {
        send(session, transport, order.split("\t"));
      }
    }
  }

  private static void send(Session session, Transport transport, String[] words) throws Exception {
    InternetAddress[] recipients = new InternetAddress[words.length - 2];
    for (int place = 0; place < recipients.length; place++) {
      recipients[place] = new InternetAddress(words[place + 2]);
    }
    try (InputStream file = new FileInputStream(words[0])) {
      Envelope message = new Envelope(session, file, new InternetAddress(words[1]));
      transport.sendMessage(message, recipients);
    }
  }

  /** A message whose reverse-path is not in its header. */
  private static class Envelope extends com.sun.mail.smtp.SMTPMessage {
    Envelope(Session session, InputStream file, InternetAddress sender) throws Exception {
      super(session, file);
      setEnvelopeFrom(sender.getAddress());
    }
  }
}
